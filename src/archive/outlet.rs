//! Where bytes leave the engine: digested, and encrypted before that when the job says so.

use std::io::{self, Write};

use crossbeam_channel::{Receiver, Sender};
use sha2::Digest;

use crate::crypt::{Seal, SealedWriter};
use crate::model::Sha256;

/// A small file of a backup, such as an index. Digest and length are those of the bytes that are stored.
pub(super) struct Outlet<W: Write>(To<W>);

enum To<W: Write> {
    Plain(Hashing<W>),
    Sealed(Box<SealedWriter<Hashing<W>>>),
}

impl<W: Write> Outlet<W> {
    pub fn new(sink: W, seal: Option<&Seal>) -> io::Result<Self> {
        let hashing = Hashing { sink, digest: sha2::Sha256::new(), length: 0 };
        Ok(Self(match seal {
            None => To::Plain(hashing),
            Some(seal) => To::Sealed(Box::new(seal.writer(hashing)?)),
        }))
    }

    /// Gives the digest and the length of what was stored.
    pub fn finish(self) -> io::Result<(Sha256, u64)> {
        let mut hashing = match self.0 {
            To::Plain(hashing) => hashing,
            To::Sealed(writer) => writer.finish()?,
        };
        hashing.sink.flush()?;
        Ok((Sha256(hashing.digest.finalize().into()), hashing.length))
    }
}

impl<W: Write> Write for Outlet<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            To::Plain(hashing) => hashing.write(bytes),
            To::Sealed(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Hashing<W> {
    sink: W,
    digest: sha2::Sha256,
    length: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write_all(bytes)?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Encrypted bytes are written and digested in pieces of about this size.
const PIECE: usize = 512 << 10;

/// What stands behind the encryption of a component: the sink, and the thread that digests.
pub(super) struct Split<'a> {
    sink: &'a mut (dyn Write + Send),
    digest: Sender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    stored: u64,
}

impl<'a> Split<'a> {
    pub fn new(sink: &'a mut (dyn Write + Send), digest: Sender<Vec<u8>>, spare: Receiver<Vec<u8>>) -> Self {
        Self { sink, digest, spare, piece: Vec::new(), stored: 0 }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.piece)?;
        self.stored += self.piece.len() as u64;
        let mut next = self.spare.try_recv().unwrap_or_default();
        next.clear();
        let piece = std::mem::replace(&mut self.piece, next);
        self.digest.send(piece).map_err(|_| io::Error::other("the digesting thread ended early"))
    }

    /// Passes on what is left; gives the bytes stored.
    pub fn finish(mut self) -> io::Result<u64> {
        self.pass_on()?;
        Ok(self.stored)
    }
}

impl Write for Split<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
