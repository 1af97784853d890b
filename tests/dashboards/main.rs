//! The dashboards of `dashboards/`: that each is well made, and that each panel has something to say.
//!
//! [`rules`] reads the files alone: it holds the rules of Grafana's dashboard-linter that apply, adapted to the
//! agent's labels, and some of our own. [`answers`] asks a real Prometheus what the panels ask, after a day
//! that [`day`] lets the real agent live through. Whether Grafana draws them is not tested.
//! [`series`] counts what an agent exports.

mod model;
mod rules;

#[cfg(feature = "real-peers")]
mod answers;
#[cfg(feature = "real-peers")]
mod day;
#[cfg(feature = "real-peers")]
#[path = "../support/port.rs"]
mod port;
#[cfg(feature = "real-peers")]
mod prometheus;
#[cfg(feature = "real-peers")]
mod series;
#[cfg(feature = "real-peers")]
#[path = "../support/smtp.rs"]
mod smtp;
