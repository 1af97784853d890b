//! Configurations read anew, good and bad ones.

use backup_agent::state::MessageKind;

use crate::host::{Host, get, metric};

#[test]
fn a_good_reload_is_used_a_bad_one_is_not_and_a_start_with_a_bad_one_uses_the_last_good() {
    let host = Host::new(r#"schedule = "0 3 * * *""#);
    let mut daemon = host.start(&[]);
    let address = daemon.address();
    let info = |line: &str| format!("backup_job_info{{backup_job=\"web\",schedule=\"{line}\"}}");
    daemon.wait_for("the job", || metric(address, &info("0 3 * * *")) == Some(1.0));

    host.configure("127.0.0.1:0", r#"schedule = "0 5 * * *""#, "");
    daemon.signal("HUP");
    daemon.wait_for("the new schedule", || metric(address, &info("0 5 * * *")) == Some(1.0));
    assert_eq!(metric(address, &info("0 3 * * *")), None);

    host.configure("127.0.0.1:0", r#"schedule = "0 25 * * *""#, "");
    daemon.signal("HUP");
    let successful = "backup_config_last_reload_successful";
    daemon.wait_for("the refusal", || metric(address, successful) == Some(0.0));
    assert_eq!(metric(address, &info("0 5 * * *")), Some(1.0));
    assert_eq!(get(address, "/healthz").0, 200);
    let agent_mails = || {
        host.state()
            .messages(100)
            .unwrap()
            .iter()
            .filter(|message| message.kind == MessageKind::Agent)
            .count()
    };
    daemon.wait_for("the mail", || agent_mails() == 1);
    assert_eq!(daemon.stop().code(), Some(0));

    let mut daemon = host.start(&[]);
    let address = daemon.address();
    daemon.wait_for("the last good one", || metric(address, &info("0 5 * * *")) == Some(1.0));
    assert_eq!(metric(address, successful), Some(0.0));
    daemon.wait_for("what it says", || daemon.said().contains("refused"));
    assert_eq!(agent_mails(), 1);

    host.configure("127.0.0.1:0", r#"schedule = "0 6 * * *""#, "");
    daemon.signal("HUP");
    daemon.wait_for("recovery", || metric(address, successful) == Some(1.0));
    // A reload that changes nothing has happened all the same.
    let loaded = || metric(address, "backup_config_last_reload_success_timestamp_seconds");
    let before = loaded();
    daemon.signal("HUP");
    daemon.wait_for("the time of the load", || loaded() > before);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_first_start_with_a_broken_configuration_ends_with_2_and_says_everything() {
    let host = Host::new("schedule = \"0 25 * * *\"\nsplay = \"long\"");
    let mut daemon = host.start(&[]);
    assert_eq!(daemon.end().code(), Some(2), "{}", daemon.said());
    let said = daemon.said();
    assert!(said.contains("schedule") && said.contains("splay"), "{said}");
}
