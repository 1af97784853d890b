//! Every kind of target is held against one suite of clauses.

mod directory;
#[cfg(all(feature = "real-peers", any(feature = "azblob", feature = "gcs")))]
mod emulators;
#[cfg(feature = "real-peers")]
mod s3;
#[cfg(feature = "real-peers")]
#[path = "../support/s3.rs"]
mod s3_server;
mod suite;
