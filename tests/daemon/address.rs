//! Where it listens.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use backup_agent::state::{FactKey, MessageKind};

use crate::host::{Daemon, Host, get};
use crate::port;

#[test]
fn a_reload_moves_the_address() {
    let host = Host::new("");
    let (first, free) = (port::free_address(), port::free_address());
    host.configure(&first.to_string(), "", "");
    let daemon = host.start(&[]);
    assert_eq!(daemon.address(), first);
    host.configure(&free.to_string(), "", "");
    daemon.signal("HUP");
    // It listens before it says so.
    daemon.wait_for("the new address", || daemon.address() == free);
    assert_eq!(get(free, "/readyz").0, 200);
    daemon.wait_for("the old address to close", || TcpStream::connect(first).is_err());
}

#[test]
fn an_address_that_is_taken_ends_a_start_at_a_terminal_and_not_the_daemon() {
    let host = Host::new("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    host.configure(&address.to_string(), "", "");
    let mut at_terminal = host.start(&["--now"]);
    assert_eq!(at_terminal.end().code(), Some(1), "{}", at_terminal.said());
    let said = at_terminal.said();
    for part in [address.to_string().as_str(), "`listen`", &format!("process {}", std::process::id())] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(host.ended_runs(), 0);

    let mut daemon = host.start(&[]);
    let told = || {
        let messages = host.state().messages(10).unwrap();
        messages.iter().any(|message| message.kind == MessageKind::Agent)
    };
    daemon.wait_for("the mail", told);
    daemon.wait_for("the scheduler", || host.state().fact(FactKey::SchedulerTick).unwrap().is_some());
    // A reload tries at once; otherwise it takes half a minute.
    drop(taken);
    let free = port::free_address();
    host.configure(&free.to_string(), "", "");
    daemon.signal("HUP");
    assert_eq!(get(daemon.address(), "/readyz").0, 200);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn the_command_line_says_another_address_and_a_taken_one_without_a_configuration_gives_that_hint() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "content\n").unwrap();
    let start = |listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.args(["run", "--now", "--listen", listen]).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Daemon::spawn(command)
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = start(&taken.local_addr().unwrap().to_string());
    assert_eq!(daemon.end().code(), Some(1), "{}", daemon.said());
    assert!(daemon.said().contains("`agent run --listen 127.0.0.1:0`"), "{}", daemon.said());

    let mut daemon = start("0.0.0.0:0");
    assert_eq!(daemon.end().code(), Some(2), "{}", daemon.said());
    assert!(daemon.said().contains("allow_remote"), "{}", daemon.said());

    let mut daemon = start("127.0.0.1:0");
    let address = || daemon.said().split_once("status page http://")?.1.split('/').next()?.parse().ok();
    daemon.wait_for("listening", || address().is_some());
    assert_eq!(get(address().unwrap(), "/readyz").0, 200);
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.said());

    let host = Host::new("");
    host.configure(&taken.local_addr().unwrap().to_string(), "", "");
    let mut daemon = host.start(&["--listen", "127.0.0.1:0"]);
    let address = daemon.address();
    daemon.signal("HUP");
    daemon.wait_for("the reload", || daemon.said().contains("the configuration was loaded"));
    assert_eq!(get(address, "/readyz").0, 200, "a reload keeps what the command line said");
    assert_eq!(daemon.stop().code(), Some(0));
}
