//! Encryption in the format of age, so that the `age` program opens what is written here.
//!
//! | file | what it does |
//! | --- | --- |
//! | `recipients` | public keys and passphrases: what is encrypted to |
//! | `identities` | private keys: what is decrypted with, and new ones |
//! | `open` | a file opened with a key |
//!
//! An age file is a header, which holds the file's key once for each recipient, and the content in pieces of
//! 64 KiB, each encrypted and authenticated by itself together with its place. Any piece can be read without
//! those before it, and none can be changed, moved or cut off unnoticed.

mod identities;
mod open;
mod recipients;

pub use identities::{Generated, KeyFiles, Keyring, generate};
pub use open::{OpenError, Opened, content_length, open, stored_end};
pub use recipients::{BadRecipient, PublicKey, Seal, SealedWriter, looks_private, parse_recipients};

/// What is appended to the name of an encrypted file.
pub const SUFFIX: &str = ".age";
