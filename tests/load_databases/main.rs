//! Dumps back into databases, by the real binary: MariaDB and PostgreSQL servers of the tests' own.
//!
//! `cargo test --features real-peers --test load_databases`
#![cfg(feature = "real-peers")]

mod home;
mod mariadb;
#[path = "../peers/mod.rs"]
mod peers;
mod postgres;
