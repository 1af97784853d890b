//! Real servers of monitoring: a Prometheus, an Alertmanager, and the doors by which Prometheus reaches agents
//! that come and go. Each ends, by its pid, when it is dropped.

#![allow(dead_code, missing_docs)]

#[path = "port.rs"]
mod port;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A server may take so long to begin, on a machine that has other work.
const START: Duration = Duration::from_secs(120);
/// An answer may take so long.
const ANSWER: Duration = Duration::from_secs(60);

/// The body of a GET; an error where there is no answer, or another status than 200.
pub fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    // HTTP/1.0, so that the body comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("{path}: {}", head.lines().next().unwrap_or_default()))),
    }
}

fn get_json(server: SocketAddr, path: &str) -> io::Result<Value> {
    Ok(serde_json::from_str(&get(server, path)?)?)
}

/// A text as it stands in a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// A server that listens where it is told.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts a server on a free port and waits until it is ready. Neither of the two says which port it took,
    /// so one is chosen for it; if somebody else was faster, another one.
    fn start(
        name: &str,
        folder: &Path,
        environment: &[(&str, &Path)],
        arguments: impl Fn(SocketAddr) -> Vec<String>,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        for _ in 0..5 {
            let address = port::free_address();
            let output = fs::File::create(&log).unwrap();
            let child = Command::new(name)
                .args(arguments(address))
                .envs(environment.iter().copied())
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap_or_else(|e| panic!("{name} is needed: apt-get install {name}: {e}"));
            let mut server = Self { child, address, log: log.clone() };
            if server.is_ready() {
                return server;
            }
        }
        panic!("{name} does not start: {}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// False when it ended instead, because its port is taken.
    fn is_ready(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < START {
            if self.child.try_wait().unwrap().is_some() {
                if self.log().contains("address already in use") {
                    return false;
                }
                panic!("a server ended:\n{}", self.log());
            }
            if get(self.address, "/-/ready").is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("a server was not ready in time:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A Prometheus that reads `prometheus.yml` in its folder.
pub struct Prometheus(pub Server);

impl Prometheus {
    pub fn start(folder: &Path) -> Self {
        Self(Server::start("prometheus", folder, &[], |address| {
            vec![
                format!("--web.listen-address={address}"),
                "--config.file=prometheus.yml".into(),
                "--storage.tsdb.path=tsdb".into(),
                // What fired before it knew Alertmanager (the watchdog) is not to wait for a minute.
                "--rules.alert.resend-delay=5s".into(),
            ]
        }))
    }

    /// The samples a query gives now; none where it has no answer yet.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let answer = get_json(self.0.address, &format!("/api/v1/query?query={}", encoded(query)));
        answer.ok().and_then(|a| a["data"]["result"].as_array().cloned()).unwrap_or_default()
    }

    /// The alerts of one instance, pending ones included: `{"labels", "annotations", "state", "activeAt"}`.
    pub fn alerts(&self, instance: &str) -> Vec<Value> {
        let answer = get_json(self.0.address, "/api/v1/alerts").unwrap_or_default();
        let all = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|alert| alert["labels"]["instance"] == instance).collect()
    }
}

/// An Alertmanager that reads `alertmanager.yml` in its folder.
pub struct Alertmanager(pub Server);

impl Alertmanager {
    /// It trusts the servers that `authority` certified.
    pub fn start(folder: &Path, authority: &Path) -> Self {
        Self(Server::start("prometheus-alertmanager", folder, &[("SSL_CERT_FILE", authority)], |address| {
            vec![
                format!("--web.listen-address={address}"),
                "--config.file=alertmanager.yml".into(),
                "--storage.path=alertmanager".into(),
                // One alone has nobody to talk to.
                "--cluster.listen-address=".into(),
            ]
        }))
    }

    /// The alerts of one instance that are not over: `{"labels", "status": {"state", "inhibitedBy"}, …}`.
    pub fn alerts(&self, instance: &str) -> Vec<Value> {
        let filter = encoded(&format!("instance={instance:?}"));
        let answer = get_json(self.0.address, &format!("/api/v2/alerts?filter={filter}"));
        answer.ok().and_then(|a| a.as_array().cloned()).unwrap_or_default()
    }
}

/// Where Prometheus finds an agent, whichever address the agent has now. While there is none, it is as if
/// nobody listened.
pub struct Door {
    pub address: SocketAddr,
    behind: Arc<Mutex<Option<SocketAddr>>>,
    stop: Arc<AtomicBool>,
}

impl Door {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let behind = Arc::<Mutex<Option<SocketAddr>>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (inside, stopped) = (Arc::clone(&behind), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), Some(agent)) = (stream, *inside.lock().unwrap()) else { continue };
                // Either side may go away at any time.
                thread::spawn(move || drop(pass(&stream, agent)));
            }
        });
        Self { address, behind, stop }
    }

    /// From now on it leads to this address, or nowhere.
    pub fn lead_to(&self, agent: Option<SocketAddr>) {
        *self.behind.lock().unwrap() = agent;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Passes bytes both ways until both sides are done.
fn pass(outside: &TcpStream, agent: SocketAddr) -> io::Result<()> {
    let inside = TcpStream::connect(agent)?;
    let (mut from, mut to) = (outside.try_clone()?, inside.try_clone()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut &inside, &mut &*outside);
    let _ = outside.shutdown(Shutdown::Both);
    let _ = there.join();
    Ok(())
}
