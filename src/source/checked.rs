//! A stream that another program reads along and judges.

use std::io::{self, PipeWriter, Read, Write as _};
use std::thread;

use anyhow::{Context as _, anyhow};

use super::StreamSource;
use crate::process::{self, Cancel, Command, ProcessError, StreamChild};

/// Passes a stream on and gives a copy of each byte to a program, which must read it to its end and exit
/// with 0: what a format's own program can read, it can restore. The program's output is thrown away.
pub(super) struct CheckedStream {
    inner: Box<dyn StreamSource>,
    checker: Checker,
}

struct Checker {
    program: String,
    /// `None` once the program closed its end.
    input: Option<PipeWriter>,
    reader: thread::JoinHandle<Result<process::Exit, ProcessError>>,
}

impl CheckedStream {
    /// Starts `command` beside `inner`.
    pub(super) fn new(
        inner: Box<dyn StreamSource>,
        command: Command,
        cancel: Cancel,
    ) -> anyhow::Result<Self> {
        let program = command.name();
        let (stdin, input) = io::pipe().with_context(|| format!("making a pipe for {program}"))?;
        let mut child = process::stream_from(command, stdin, cancel)?;
        let reader = thread::Builder::new()
            .name("check".to_owned())
            .spawn(move || drain(&mut child).and_then(|()| child.finish()))
            .with_context(|| format!("starting a thread for {program}"))?;
        Ok(Self { inner, checker: Checker { program, input: Some(input), reader } })
    }
}

/// What the program prints is read, so that it never waits for us. A read error is told by `finish`.
fn drain(child: &mut StreamChild) -> Result<(), ProcessError> {
    let _ = io::copy(child, &mut io::sink());
    Ok(())
}

impl Checker {
    fn give(&mut self, bytes: &[u8]) {
        // A program that has seen enough, or died, closes its end; how it ended says which.
        if self.input.as_mut().is_some_and(|input| input.write_all(bytes).is_err()) {
            self.input = None;
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        let Self { program, input, reader } = self;
        drop(input);
        let ended = reader.join().map_err(|_| anyhow!("the thread that read from {program} failed"))?;
        ended
            .map(drop)
            .with_context(|| format!("the dump is not whole: {program}, which read it along, refused it"))
    }
}

impl Read for CheckedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.reader().read(buf)?;
        self.checker.give(&buf[..n]);
        Ok(n)
    }
}

impl StreamSource for CheckedStream {
    fn reader(&mut self) -> &mut (dyn Read + Send) {
        self
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self { inner, checker } = *self;
        // How the dump program ended says more than what the other made of half a dump.
        let dumped = inner.finish();
        let checked = checker.finish();
        dumped.and(checked)
    }
}
