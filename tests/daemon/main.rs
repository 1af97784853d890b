//! The daemon as a process: signals, reloads, a kill and what the next start makes of it, the HTTP address.

mod address;
mod host;
mod life;
#[path = "../support/port.rs"]
mod port;
mod reloads;
mod runs;
