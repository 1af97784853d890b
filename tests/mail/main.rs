//! Mail and heartbeats against real servers on loopback: what arrives, and what happens when the other
//! side behaves badly.

mod delivery;
mod heartbeat;
#[path = "../support/http.rs"]
mod http;
mod office;
mod sending;
#[path = "../support/smtp.rs"]
mod smtp;
mod spooled;
