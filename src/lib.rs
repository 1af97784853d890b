//! backup-agent: scheduled backups of one server, verified, watched and told about.
//!
//! # Layout
//!
//! Files stand on layers; a file imports only from lower layers or its own folder (`tests/layers.rs`
//! holds the table). From the bottom up:
//!
//! | layer | modules | what they know |
//! | --- | --- | --- |
//! | 0 | [`model`], [`clock`], [`sys`], [`failpoint`] | names, sizes, time, bare system calls, places for tests |
//! | 1 | [`fsutil`], [`process`], [`mounts`], [`secret_file`] | files, children, which file system a path lies on |
//! | 2 | [`manifest`], [`event`], [`lock`], [`schedule`], [`crypt`] | one backup's description, what a run tells, locks, cron lines, keys |
//! | 3 | [`archive`], [`config`], [`state`], [`log`], [`triggers`] | the engine, the configuration, the database, the log, what starts programs |
//! | 4 | [`source`], [`target`], [`retention`], [`notify`], [`health`] | where data comes from and goes to, who is told |
//! | 5 | [`ops`], [`metrics`] | what runs, daemon and verbs share |
//! | 6 | [`run`], [`web`], [`doctor`] | one run, step by step; the pages; what is wrong with the surroundings |
//! | 7 | [`daemon`] | the loops |
//! | 8 | [`cli`] | the verbs |
//!
//! To understand a backup, read [`run`] first: it is the table of contents.

#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod archive;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypt;
pub mod daemon;
pub mod doctor;
pub mod event;
pub mod failpoint;
pub mod fsutil;
pub mod health;
pub mod lock;
pub mod log;
pub mod manifest;
pub mod metrics;
pub mod model;
pub mod mounts;
pub mod notify;
pub mod ops;
pub mod process;
pub mod retention;
pub mod run;
pub mod schedule;
pub mod secret_file;
pub mod source;
pub mod state;
pub mod sys;
pub mod target;
pub mod triggers;
pub mod web;
