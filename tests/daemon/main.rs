//! The daemon as a process: signals, reloads, a kill and what the next start makes of it, the HTTP address.

mod address;
mod host;
mod life;
mod reloads;
mod runs;
