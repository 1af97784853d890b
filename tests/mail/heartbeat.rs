//! Pings of dead man's switches.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use backup_agent::clock::{Clock, ManualClock};
use backup_agent::model::{ChannelName, Outcome, Secret};
use backup_agent::notify::outbox::{self, Delivery};
use backup_agent::notify::ping::Dialect;
use backup_agent::notify::{Channel, HttpSettings, plan};
use backup_agent::state::State;
use chrono::TimeDelta;

use crate::http::{HttpServer, Manners};
use crate::office::{facts, install_provider, now, test_facts};

/// Must not be shown: who knows it can ping.
pub const PATH: &str = "/ping/canary-uuid?x=1";

/// A server that answers with these statuses.
pub fn answering(statuses: &[u16]) -> HttpServer {
    let server = HttpServer::plain();
    server.next(statuses.iter().map(|status| Manners::Answer(*status, "", Vec::new())));
    server
}

/// Its requests, a line each: method, target, body.
fn seen(server: &HttpServer) -> Vec<String> {
    let line = |r: &crate::http::Request| format!("{} {} {}", r.method, r.target, r.text()).trim().to_owned();
    server.requests().iter().map(line).collect()
}

pub fn heartbeat(url: &str) -> Arc<Channel> {
    heartbeat_with(url, Duration::from_secs(60))
}

fn heartbeat_with(url: &str, timeout: Duration) -> Arc<Channel> {
    install_provider();
    let settings = HttpSettings { url: Secret::new(url), timeout, ca_file: None };
    Arc::new(Channel::ping(ChannelName::new("switch").unwrap(), &settings, Dialect::HEARTBEAT).unwrap())
}

#[tokio::test]
async fn a_heartbeat_pings_good_and_bad_runs() {
    let server = answering(&[200, 405, 200, 500]);
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path(), now()).unwrap();
    let channels = vec![heartbeat(&server.url(PATH))];
    let clock = Arc::new(ManualClock::new(now()));
    let tell = async |outcome, id: &str| {
        let mut facts = facts(outcome);
        facts.run_id = id.parse().unwrap();
        plan::run_ended(&state, &channels, &facts, clock.now())
            .unwrap()
            .enqueue(&state, clock.now())
            .unwrap();
        outbox::deliver(Some(&state), dir.path(), &channels, clock.clone()).await
    };
    assert_eq!(tell(Outcome::Success, "20261124T180000Z-k3f9qa").await.sent, 1);
    // A switch that knows only GET.
    assert_eq!(tell(Outcome::Failure, "20261124T180100Z-k3f9qa").await.sent, 1);
    assert_eq!(
        seen(&server),
        [
            "POST /ping/canary-uuid?x=1 askproai: success, run 20261124T180000Z-k3f9qa",
            "POST /ping/canary-uuid/fail?x=1 askproai: failure, run 20261124T180100Z-k3f9qa",
            "GET /ping/canary-uuid/fail?x=1",
        ]
    );
    let done = tell(Outcome::Success, "20261124T180200Z-k3f9qa").await;
    assert_eq!(done.failed, 1);
    assert!(done.problems[0].contains("127.0.0.1 answered 500"), "{done:?}");
    assert!(!format!("{done:?} {:?} {:?}", channels[0], state.messages(9).unwrap()).contains("canary"));
    // A newer one replaces what waits.
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(
        tell(Outcome::Warning, "20261124T180300Z-k3f9qa").await,
        Delivery { sent: 1, ..Default::default() }
    );
    assert!(seen(&server).last().unwrap().ends_with("warning, run 20261124T180300Z-k3f9qa"));
}

#[tokio::test]
async fn a_heartbeat_nobody_answers_names_only_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/canary", listener.local_addr().unwrap());
    let dead = "http://127.0.0.1:1/canary"; // nobody listens there
    for url in [&silent, dead] {
        let switch = heartbeat_with(url, Duration::from_millis(500));
        let mut results = outbox::send_test(&switch, &test_facts()).await;
        let error = results.pop().unwrap().1.unwrap_err();
        assert!(error.text.contains("heartbeat at 127.0.0.1") && !error.text.contains("canary"), "{error}");
    }
    for bad in ["canary", "ftp://canary/", "mailto:canary@example.org"] {
        let settings = HttpSettings { url: Secret::new(bad), timeout: Duration::from_secs(1), ca_file: None };
        let name = ChannelName::new("switch").unwrap();
        let error = Channel::ping(name, &settings, Dialect::HEARTBEAT).unwrap_err();
        assert!(!format!("{error:#} {settings:?}").contains("canary"), "{error:#}");
    }
}
