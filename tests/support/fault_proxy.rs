//! A TCP proxy that harms connections: what tests put between the program and any server, whatever it speaks.
//!
//! A fault has a direction, a number of bytes that pass before it, and a number of connections it meets. What is
//! small passes unharmed: a fault after 100,000 bytes from the client hits an upload, not a login.

#![allow(dead_code, missing_docs)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Which way the bytes go that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Both ends see an end, as when a server stops.
    Cut,
    /// Both ends see a reset.
    Reset,
    /// Nothing goes on, and nobody is told.
    Stall,
    /// As when a server stops, and is not started again before the fault is healed.
    Leave,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    harm: Harm,
    way: Way,
    after: u64,
    left: u64,
}

#[derive(Default)]
struct Shared {
    fault: Mutex<Option<Fault>>,
    fired: AtomicU64,
    connections: AtomicU64,
    /// Connections are refused at once.
    away: AtomicBool,
    stop: AtomicBool,
}

/// The proxy. It ends with this value.
pub struct FaultProxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    pub fn to(server: SocketAddr) -> Self {
        Self::between(Ipv4Addr::LOCALHOST.into(), server)
    }

    /// One that listens at another address of this machine.
    pub fn between(own: IpAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                serving.connections.fetch_add(1, Ordering::SeqCst);
                if serving.away.load(Ordering::SeqCst) {
                    reset(&client);
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else {
                    reset(&client);
                    continue;
                };
                for (way, from, to) in [(Way::Up, &client, &server), (Way::Down, &server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&serving);
                    thread::spawn(move || pass(way, from, to, &shared));
                }
            }
        });
        Self { address, shared }
    }

    /// Harms the next `times` connections of which more than `after` bytes went that way. Counting of faults that
    /// fired begins anew.
    pub fn harm(&self, harm: Harm, way: Way, after: u64, times: u64) {
        self.shared.fired.store(0, Ordering::SeqCst);
        *self.shared.fault.lock().unwrap() = Some(Fault { harm, way, after, left: times });
    }

    /// From now on nothing is harmed, and stalled connections end.
    pub fn heal(&self) {
        *self.shared.fault.lock().unwrap() = None;
        self.shared.away.store(false, Ordering::SeqCst);
    }

    /// Refuses every connection until it is healed.
    pub fn go_away(&self) {
        self.shared.away.store(true, Ordering::SeqCst);
    }

    /// How often the fault fired.
    pub fn fired(&self) -> u64 {
        self.shared.fired.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.heal();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// The fault that these bytes meet, and how many of them still pass.
    fn meets(&self, way: Way, passed: u64, coming: u64) -> Option<(Harm, u64)> {
        let mut fault = self.fault.lock().unwrap();
        let found = fault.as_mut().filter(|f| f.way == way && f.left > 0 && passed + coming > f.after)?;
        found.left -= 1;
        self.fired.fetch_add(1, Ordering::SeqCst);
        Some((found.harm, found.after.saturating_sub(passed)))
    }

    /// Whether connections that are stalled stay so.
    fn stalls(&self) -> bool {
        !self.stop.load(Ordering::SeqCst) && self.fault.lock().unwrap().is_some()
    }
}

fn pass(way: Way, mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
        };
        let (harm, allowed) = match shared.meets(way, passed, got as u64) {
            Some((harm, allowed)) => (Some(harm), allowed as usize),
            None => (None, got),
        };
        if to.write_all(&buffer[..allowed]).is_err() {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
        passed += allowed as u64;
        match harm {
            None => {}
            Some(Harm::Cut) => {}
            Some(Harm::Leave) => shared.away.store(true, Ordering::SeqCst),
            Some(Harm::Reset) => {
                reset(&from);
                reset(&to);
            }
            Some(Harm::Stall) => {
                while shared.stalls() {
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
        if harm.is_some() {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
    }
}

/// Lets the connection end with a reset as soon as it is closed.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
