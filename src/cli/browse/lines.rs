//! Listings on their way to somebody who may stop reading.

use std::io::{self, Write};

use anyhow::Result;

use crate::cli::output;

/// Standard output that many small texts go to. A reader that went away has what it wanted.
pub(super) struct Lines {
    text: String,
    closed: bool,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { text: String::new(), closed: false }
    }

    /// Adds a line; false when nobody reads any more.
    pub(super) fn line(&mut self, line: &str) -> bool {
        self.text.push_str(&output::harmless(line));
        self.text.push('\n');
        if self.text.len() > 64 << 10 {
            self.flush();
        }
        !self.closed
    }

    fn flush(&mut self) {
        let mut out = io::stdout().lock();
        self.closed |= out.write_all(self.text.as_bytes()).and_then(|()| out.flush()).is_err();
        self.text.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The error that ends a listing nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the answer any more")]
pub(super) struct Closed;

/// A listing is over when nobody reads it.
pub(super) fn unless_closed(result: Result<()>) -> Result<()> {
    result.or_else(|e| if e.is::<Closed>() { Ok(()) } else { Err(e) })
}
