//! The standard output of a program as a stream that is whole only with the right end.

use std::io::{self, Read};

use anyhow::bail;

use super::StreamSource;
use crate::event::Interrupted;
use crate::process::{ProcessError, StreamChild};
use crate::secret_file::TemporarySecret;

/// How much white space may follow an end marker.
const TRAILING: usize = 4 << 10;
/// Longest last line that is looked at.
const LAST_LINE: usize = 4 << 10;

/// How the output must end.
#[derive(Debug, Clone)]
pub(super) enum EndMarker {
    /// No matter how.
    Any,
    /// With this text, white space aside.
    Text(String),
    /// With a line that begins with this text, white space aside.
    LineBeginningWith(&'static str),
}

impl EndMarker {
    /// How many of the last bytes decide.
    fn window(&self) -> usize {
        match self {
            EndMarker::Any => 0,
            EndMarker::Text(text) => text.len() + TRAILING,
            EndMarker::LineBeginningWith(_) => LAST_LINE + TRAILING,
        }
    }

    fn text(&self) -> &str {
        match self {
            EndMarker::Any => "",
            EndMarker::Text(text) => text,
            EndMarker::LineBeginningWith(text) => text,
        }
    }

    fn is_met(&self, end: &[u8]) -> bool {
        let end = end.trim_ascii_end();
        match self {
            EndMarker::Any => true,
            EndMarker::Text(text) => end.ends_with(text.trim_ascii_end().as_bytes()),
            EndMarker::LineBeginningWith(text) => {
                let line = end.iter().rposition(|b| *b == b'\n').map_or(end, |at| &end[at + 1..]);
                line.starts_with(text.as_bytes())
            }
        }
    }
}

/// Passes bytes through, counts them and remembers the last ones.
#[derive(Debug)]
pub(super) struct Watched<R> {
    inner: R,
    bytes: u64,
    end: Vec<u8>,
    window: usize,
}

impl<R> Watched<R> {
    pub(super) fn new(inner: R, marker: &EndMarker) -> Self {
        Self { inner, bytes: 0, end: Vec::new(), window: marker.window() }
    }

    fn remember(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.end.extend_from_slice(&chunk[chunk.len().saturating_sub(self.window)..]);
        if self.end.len() > 2 * self.window {
            self.end.drain(..self.end.len() - self.window);
        }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.remember(&buf[..n]);
        Ok(n)
    }
}

/// A running program whose output is the stream.
pub(super) struct ProgramStream {
    pub(super) program: String,
    pub(super) output: Watched<StreamChild>,
    pub(super) marker: EndMarker,
    pub(super) allow_empty: bool,
    /// Removed when the program has ended.
    pub(super) credentials: Option<TemporarySecret>,
    /// Puts words to a failure of the program.
    pub(super) explain: Option<Explain>,
}

/// Makes the error to be told of a program's failure.
pub(super) type Explain = Box<dyn Fn(ProcessError) -> anyhow::Error + Send>;

impl StreamSource for ProgramStream {
    fn reader(&mut self) -> &mut (dyn Read + Send) {
        &mut self.output
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self { program, output, marker, allow_empty, credentials, explain } = *self;
        let ended = output.inner.finish();
        drop(credentials);
        ended.map_err(|error| match (error, explain) {
            // Told from a failure by its type, as in every other step.
            (error @ ProcessError::Cancelled { .. }, _) => {
                anyhow::Error::new(Interrupted).context(error.to_string())
            }
            (error, Some(explain)) => explain(error),
            (error, None) => error.into(),
        })?;
        if output.bytes == 0 {
            if allow_empty {
                return Ok(());
            }
            bail!("program {program} ended well, but wrote nothing");
        }
        if !marker.is_met(&output.end) {
            bail!(
                "program {program} ended well after {} bytes, but its output does not end with {:?}: it is cut off",
                output.bytes,
                marker.text()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(marker: EndMarker, text: &str, chunk: usize) -> bool {
        let mut watched = Watched::new(text.as_bytes(), &marker);
        let mut buf = vec![0; chunk];
        while watched.read(&mut buf).unwrap() > 0 {}
        assert_eq!(watched.bytes, text.len() as u64);
        assert!(watched.end.len() <= 2 * watched.window);
        marker.is_met(&watched.end)
    }

    #[test]
    fn an_end_marker_is_found_whatever_the_chunks() {
        let long = "x".repeat(100_000);
        for chunk in [1, 7, 4096, 1 << 20] {
            let marker = || EndMarker::Text("-- END\n".to_owned());
            assert!(met(marker(), &format!("{long}-- END \n\n"), chunk));
            assert!(!met(marker(), &format!("-- END\n{long}"), chunk));
            assert!(!met(marker(), &format!("{long}-- EN"), chunk));
            let line = || EndMarker::LineBeginningWith("-- Dump completed");
            assert!(met(line(), &format!("{long}\n-- Dump completed on 2026-11-24 18:00:00\n"), chunk));
            assert!(met(line(), "-- Dump completed", chunk));
            assert!(!met(line(), &format!("{long} -- Dump completed on x\n"), chunk));
            assert!(!met(line(), &format!("-- Dump completed on x\n{long}\n"), chunk));
            assert!(met(EndMarker::Any, &long, chunk));
        }
    }
}
