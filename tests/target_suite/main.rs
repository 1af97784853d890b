//! Every kind of target is held against one suite of clauses.

mod directory;
#[cfg(all(feature = "real-peers", any(feature = "azblob", feature = "gcs")))]
mod emulators;
#[cfg(feature = "real-peers")]
#[path = "../peers/mod.rs"]
mod peers;
mod suite;
#[cfg(feature = "real-peers")]
mod webdav;
