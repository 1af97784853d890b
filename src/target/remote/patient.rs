//! Tries again what failed for a moment: a wrapper around every store, so that none has loops of its own.
//!
//! An upload is not tried again here: what it was given is gone. The queue of copies does that, as a whole.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::{AlreadyThere, Entry, Kept, Mode, Object, Store, Tree, Upload};
use crate::archive::ReadAt;
use crate::failpoint;
use crate::target::{Permanent, Published, Space, Unreached, is_permanent, says_nothing_of_content};

/// How often one operation is tried.
const ATTEMPTS: u32 = 4;
/// The first pause; it doubles. With jitter, so that many hosts do not come back in step.
const PAUSE: Duration = Duration::from_millis(400);

/// Tries `operation` until it works, its error is final, or it failed [`ATTEMPTS`] times.
pub(super) fn patiently<T>(mut operation: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match operation() {
            Err(error) if !is_permanent(&error) && !error.chain().any(is_answer) => {
                tracing::debug!("trying again: {error:#}");
                std::thread::sleep(failpoint::pause(pause.mul_f64(rand::random_range(0.7..1.3))));
                pause *= 2;
            }
            done => return done,
        }
    }
    operation()
}

/// Whether an error is what the store has to say, and no trouble in saying it.
fn is_answer(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<AlreadyThere>() || cause.is::<Kept>()
}

/// A store that is asked again.
#[derive(Clone)]
pub(super) struct Patient {
    store: Arc<dyn Store>,
}

impl Patient {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        Self { store: store.into() }
    }

    pub(super) fn kind(&self) -> &'static str {
        self.store.kind()
    }

    pub(super) fn address(&self, key: &str) -> String {
        self.store.address(key)
    }

    pub(super) fn probe(&self) -> Result<Option<Space>> {
        patiently(|| self.store.probe())
    }

    pub(super) fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>> {
        patiently(|| self.store.upload(key, mode))
    }

    pub(super) fn open(&self, key: &str) -> Result<Option<PatientObject>> {
        let found = patiently(|| self.store.open(key))?;
        Ok(found.map(|object| PatientObject { object: Arc::from(object) }))
    }

    pub(super) fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        patiently(|| self.store.list(folder))
    }

    pub(super) fn find(&self, name: &str) -> Result<Option<Vec<String>>> {
        patiently(|| self.store.find(name))
    }

    pub(super) fn delete(&self, key: &str) -> Result<()> {
        patiently(|| self.store.delete(key))
    }

    pub(super) fn put_away(&self, key: &str) -> Result<()> {
        patiently(|| self.store.put_away(key))
    }

    pub(super) fn discard(&self, folder: &str) -> Result<()> {
        patiently(|| self.store.discard(folder))
    }

    pub(super) fn has_folders(&self) -> bool {
        self.store.tree().is_some()
    }

    fn tree(&self) -> Result<&dyn Tree> {
        self.store.tree().ok_or_else(|| anyhow::anyhow!("{} has no folders", self.kind()))
    }

    pub(super) fn make_folder(&self, path: &str) -> Result<()> {
        let tree = self.tree()?;
        patiently(|| tree.make_folder(path))
    }

    /// Not tried again: an answer that was lost may have been that it is done.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<Published> {
        self.tree()?.rename(from, to)
    }

    pub(super) fn remove_all(&self, path: &str) -> Result<bool> {
        let tree = self.tree()?;
        patiently(|| tree.remove_all(path))
    }

    pub(super) fn remove_empty(&self, path: &str) -> Result<bool> {
        let tree = self.tree()?;
        patiently(|| tree.remove_empty(path))
    }

    pub(super) fn tidy(&self) -> Result<bool> {
        let tree = self.tree()?;
        patiently(|| tree.tidy())
    }
}

/// An object whose reads are tried again.
#[derive(Clone)]
pub(super) struct PatientObject {
    object: Arc<dyn Object>,
}

impl PatientObject {
    /// Its bytes from the beginning. A connection that breaks is taken up again where it broke.
    pub(super) fn reader(&self) -> impl Read + Send + use<> {
        Resuming { object: Arc::clone(&self.object), at: 0, stream: None }
    }
}

impl ReadAt for PatientObject {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        patiently(|| Ok(self.object.read_exact_at(offset, length)?)).map_err(into_io)
    }

    fn length(&self) -> io::Result<u64> {
        patiently(|| Ok(self.object.length()?)).map_err(into_io)
    }
}

/// An error for `Read` and `Write`: one of I/O as it is, and the mark of a final one kept.
pub(super) fn into_io(error: anyhow::Error) -> io::Error {
    let is_final = is_permanent(&error);
    let is_unreached = says_nothing_of_content(&error);
    match error.downcast::<io::Error>() {
        Ok(error) => error,
        Err(error) if is_final => io::Error::other(Permanent(format!("{error:#}"))),
        Err(error) if is_unreached => io::Error::other(Unreached(format!("{error:#}"))),
        Err(error) => io::Error::other(format!("{error:#}")),
    }
}

struct Resuming {
    object: Arc<dyn Object>,
    at: u64,
    stream: Option<Box<dyn Read + Send>>,
}

impl Read for Resuming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = patiently(|| {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(self.object.stream(self.at)?),
            };
            match stream.read(out) {
                Ok(got) => Ok(got),
                Err(e) => {
                    self.stream = None;
                    Err(e.into())
                }
            }
        });
        let got = read.map_err(into_io)?;
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn what_failed_for_a_moment_is_tried_again_and_what_is_final_is_not() {
        let tries = AtomicU32::new(0);
        let second = patiently(|| match tries.fetch_add(1, Ordering::Relaxed) {
            0 => anyhow::bail!("connection reset"),
            n => Ok(n),
        });
        assert_eq!(second.unwrap(), 1);
        tries.store(0, Ordering::Relaxed);
        let refused: Result<()> = patiently(|| {
            tries.fetch_add(1, Ordering::Relaxed);
            Err(Permanent("wrong key".to_owned()).into())
        });
        assert!(refused.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }

    /// Gives `cut` bytes a stream, then breaks.
    struct Breaking {
        bytes: Vec<u8>,
        cut: usize,
    }

    impl ReadAt for Breaking {
        fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
            Ok(self.bytes[offset as usize..][..length].to_vec())
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }
    }

    impl Object for Breaking {
        fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
            struct Broken;
            impl Read for Broken {
                fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                    Err(io::ErrorKind::ConnectionReset.into())
                }
            }
            let rest = self.bytes[offset as usize..].to_vec();
            if rest.len() <= self.cut {
                return Ok(Box::new(io::Cursor::new(rest)));
            }
            let some = rest[..self.cut].to_vec();
            Ok(Box::new(io::Cursor::new(some).chain(Broken)))
        }
    }

    #[test]
    fn a_stream_that_breaks_goes_on_where_it_broke() {
        let bytes: Vec<u8> = (0..=255).collect();
        let object = PatientObject { object: Arc::new(Breaking { bytes: bytes.clone(), cut: 100 }) };
        let mut read = Vec::new();
        object.reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
    }
}
