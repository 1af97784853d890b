//! Networks and servers that fail: connections that are cut, stall or are reset, servers that lie. Rows 33 to 35 of
//! the fault matrix.
//!
//! For each fault the backup itself is good and the run degraded; nothing is visible at the target, nothing hangs
//! beyond its limits, and the next attempt works. Each test sees that its fault fired.
#![cfg(feature = "real-peers")]

mod connections;
#[path = "../support/fault_proxy.rs"]
mod fault_proxy;
mod kinds;
mod lies;
#[path = "../support/lying.rs"]
mod lying;
#[path = "../peers/mod.rs"]
mod peers;
#[path = "../support/s3.rs"]
mod s3;
#[path = "../support/world.rs"]
mod world;
