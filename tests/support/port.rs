//! Ports for servers that must be told theirs.
//!
//! A port that was found free and given back is taken by whoever binds next: tests run beside one another, and each
//! has servers. So these come from below those that the kernel gives away by itself, and each belongs to one process
//! of tests until that ends.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixDatagram};
use std::sync::Mutex;

/// What is below is for services that a machine may have.
const FIRST: u16 = 10_000;

/// A port of the loopback that nobody listens at, and no other test is given as long as this process lives.
pub fn free() -> u16 {
    // A name bound for each of them; the kernel frees it with the process, however that ends.
    static HELD: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let given_away = range.split_whitespace().next().and_then(|first| first.parse().ok());
    let end = given_away.filter(|first| *first >= 2 * FIRST).unwrap_or(32_768_u16);
    for _ in 0..10_000 {
        let chance = RandomState::new().hash_one(()) % u64::from(end - FIRST);
        let port = FIRST + chance as u16;
        let name = net::SocketAddr::from_abstract_name(format!("backup-agent-test-port-{port}")).unwrap();
        let Ok(held) = UnixDatagram::bind_addr(&name) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            HELD.lock().unwrap().push(held);
            return port;
        }
    }
    panic!("no port is free");
}

/// The same with its address.
#[allow(dead_code, reason = "each test uses its part")]
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free()).into()
}
