//! Every kind of target is held against one suite of clauses.

mod directory;
#[cfg(all(feature = "real-peers", any(feature = "azblob", feature = "gcs")))]
mod emulators;
mod suite;
