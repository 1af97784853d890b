//! The program as people, cron and monitoring systems use it: the real binary, real files, real peers.

mod backup;
mod bad_input;
mod browse;
mod check;
mod config;
mod copies;
mod encryption;
mod keep;
mod locks;
mod mail;
#[cfg(feature = "real-peers")]
mod mysql;
#[path = "../support/port.rs"]
mod port;
mod read_back;
mod replace_script;
mod restore;
mod secret_files;
#[path = "../support/smtp.rs"]
mod smtp;
mod sources;
mod verbs;
mod world;
