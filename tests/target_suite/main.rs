//! Every kind of target is held against one suite of clauses.

mod directory;
mod sftp;
#[path = "../support/sshd.rs"]
mod sshd;
mod suite;
