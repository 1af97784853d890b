//! Every kind of target is held against one suite of clauses.

#[cfg(all(feature = "real-peers", feature = "azblob"))]
mod azblob;
mod directory;
#[cfg(feature = "real-peers")]
#[path = "../peers/mod.rs"]
mod peers;
#[cfg(feature = "real-peers")]
mod s3;
#[cfg(feature = "real-peers")]
#[path = "../support/s3.rs"]
mod s3_server;
#[cfg(feature = "real-peers")]
mod sftp;
mod suite;
#[cfg(feature = "real-peers")]
mod webdav;
