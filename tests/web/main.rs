//! The HTTP server over real sockets.

mod answers;
mod load;
mod pages;
#[path = "../sample/mod.rs"]
mod sample;
mod stage;
