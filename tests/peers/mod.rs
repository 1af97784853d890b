//! Servers that tests start for themselves, on sockets and free loopback ports, and end when they are dropped.

// Each test takes what it needs.
#![allow(dead_code)]

pub mod mariadb;
pub mod postgres;
pub mod redis;
pub mod sshd;
pub mod stage;
pub mod webdav;
