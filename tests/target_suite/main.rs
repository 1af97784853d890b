//! Every kind of target is held against one suite of clauses.

#[cfg(all(feature = "real-peers", feature = "azblob"))]
mod azblob;
mod directory;
#[cfg(feature = "real-peers")]
#[path = "../peers/mod.rs"]
mod peers;
#[cfg(feature = "real-peers")]
mod sftp;
mod suite;
#[cfg(feature = "real-peers")]
mod webdav;
