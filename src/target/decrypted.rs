//! An encrypted file of a finished backup, read as what is in it.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::StoredFile;
use crate::archive::ReadAt;
use crate::crypt::{Keyring, OpenError, Opened, content_length, open, stored_end};

/// What is read at once where nothing says how much will be wanted.
const AHEAD: u64 = 256 << 10;

/// An encrypted file, opened with a key. Reading by position decrypts the pieces of 64 KiB that are needed, and
/// asks the target for all of them at once.
pub struct Decrypted {
    source: Arc<Source>,
    keys: Arc<Keyring>,
    /// None after an error: the reader of age cannot go on behind one.
    opened: Mutex<Option<Opened<Pieces>>>,
    header: u64,
    at: u64,
}

/// The stored file, shared with its readers.
struct Source {
    file: Mutex<Box<dyn StoredFile>>,
    length: u64,
    /// Where what is wanted next ends, in the stored file.
    wanted: AtomicU64,
}

impl Decrypted {
    /// Opens `file` with `keys`.
    ///
    /// # Errors
    /// No key fits, or the header is damaged.
    pub fn open(file: Box<dyn StoredFile>, keys: Arc<Keyring>) -> Result<Self, OpenError> {
        let length = file.read_at().length().map_err(OpenError::Read)?;
        let source = Arc::new(Source { file: Mutex::new(file), length, wanted: AtomicU64::new(0) });
        let (opened, header) = source.open(&keys)?;
        Ok(Self { source, keys, opened: Mutex::new(Some(opened)), header, at: 0 })
    }

    fn content_length(&self) -> io::Result<u64> {
        content_length(self.source.length.saturating_sub(self.header))
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the encrypted file is cut off"))
    }
}

impl Source {
    /// A reader at the beginning of the content, and where that stands in the stored file.
    fn open(self: &Arc<Self>, keys: &Keyring) -> Result<(Opened<Pieces>, u64), OpenError> {
        let position = Arc::new(AtomicU64::new(0));
        let pieces = Pieces {
            source: Arc::clone(self),
            position: Arc::clone(&position),
            at: 0,
            piece: Vec::new(),
            piece_at: 0,
        };
        let opened = open(pieces, keys)?;
        Ok((opened, position.load(Ordering::Relaxed)))
    }
}

impl ReadAt for Decrypted {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(length as u64);
        if end > self.content_length()? {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the encrypted file is cut off"));
        }
        let mut bytes = vec![0; length];
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        self.source.wanted.store(self.header + stored_end(end), Ordering::Relaxed);
        let mut reader = match opened.take() {
            Some(reader) => reader,
            None => self.source.open(&self.keys).map_err(io::Error::other)?.0,
        };
        reader.seek(SeekFrom::Start(offset)).and_then(|_| reader.read_exact(&mut bytes)).map_err(explain)?;
        *opened = Some(reader);
        Ok(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.content_length()
    }
}

impl Read for Decrypted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.content_length()?.saturating_sub(self.at);
        let length = out.len().min(1 << 20).min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = self.read_exact_at(self.at, length)?;
        out[..length].copy_from_slice(&bytes);
        self.at += length as u64;
        Ok(length)
    }
}

impl StoredFile for Decrypted {
    fn read_at(&self) -> &dyn ReadAt {
        self
    }
}

/// What age says of a piece that is not what was written.
pub fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            io::Error::new(error.kind(), "it cannot be decrypted: what is stored is not what was written")
        }
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the encrypted file is cut off"),
        _ => error,
    }
}

/// The stored file as a stream that can be sought, read in pieces worth a request to a server.
struct Pieces {
    source: Arc<Source>,
    /// `at`, for whoever opened it.
    position: Arc<AtomicU64>,
    at: u64,
    piece: Vec<u8>,
    piece_at: u64,
}

impl Pieces {
    fn fill(&mut self) -> io::Result<()> {
        let wanted = self.source.wanted.load(Ordering::Relaxed);
        let end = if wanted > self.at { wanted } else { self.at + AHEAD };
        let end = end.min(self.at + (8 << 20)).min(self.source.length);
        let length = usize::try_from(end.saturating_sub(self.at)).unwrap_or_default();
        let file = self.source.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.piece = if length == 0 { Vec::new() } else { file.read_at().read_exact_at(self.at, length)? };
        self.piece_at = self.at;
        Ok(())
    }
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let inside = |this: &Self| {
            let from = usize::try_from(this.at.checked_sub(this.piece_at)?).ok()?;
            this.piece.get(from..).filter(|rest| !rest.is_empty()).map(|_| from)
        };
        let from = match inside(self) {
            Some(from) => from,
            None => {
                self.fill()?;
                0
            }
        };
        let got = out.len().min(self.piece.len() - from);
        out[..got].copy_from_slice(&self.piece[from..from + got]);
        self.at += got as u64;
        self.position.store(self.at, Ordering::Relaxed);
        Ok(got)
    }
}

impl Seek for Pieces {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.source.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the beginning"))?;
        self.position.store(self.at, Ordering::Relaxed);
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::crypt::{KeyFiles, Seal, generate};

    /// A file in memory that counts how often it is asked.
    struct Memory(Vec<u8>, Arc<AtomicUsize>);

    impl Read for Memory {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            unreachable!("it is read by position")
        }
    }

    impl ReadAt for Memory {
        fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(self.0[offset as usize..offset as usize + length].to_vec())
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }
    }

    impl StoredFile for Memory {
        fn read_at(&self) -> &dyn ReadAt {
            self
        }
    }

    fn key() -> (Seal, Arc<Keyring>) {
        let folder = tempfile::tempdir().unwrap();
        let made = generate(chrono::DateTime::UNIX_EPOCH);
        let file = folder.path().join("key");
        let mut out =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
        out.write_all(made.file.expose().as_bytes()).unwrap();
        let keys = KeyFiles { identities: vec![file], passphrase_file: None }.read().unwrap();
        (Seal::to_keys(vec![made.public.parse().unwrap()]).unwrap(), Arc::new(keys))
    }

    fn sealed(seal: &Seal, content: &[u8]) -> Vec<u8> {
        let mut writer = seal.writer(Vec::new()).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn any_place_is_read_by_one_request_and_sequential_reading_gives_all() {
        let (seal, keys) = key();
        let content: Vec<u8> =
            (0..3_000_017_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let stored = sealed(&seal, &content);
        let asked = Arc::new(AtomicUsize::new(0));
        let file = Decrypted::open(Box::new(Memory(stored, Arc::clone(&asked))), Arc::clone(&keys)).unwrap();
        assert_eq!(file.read_at().length().unwrap(), content.len() as u64);
        for (offset, length) in
            [(2_900_000, 100_017), (0, 10), (65_535, 2), (65_536, 1), (1_234_567, 1_048_576), (5, 0)]
        {
            let before = asked.load(Ordering::Relaxed);
            let got = file.read_at().read_exact_at(offset, length).unwrap();
            assert_eq!(got, content[offset as usize..offset as usize + length], "at {offset}");
            let requests = asked.load(Ordering::Relaxed) - before;
            assert!(requests <= 3, "{requests} requests at {offset}");
        }
        assert!(file.read_at().read_exact_at(2_999_990, 100).is_err());
        let (mut file, mut back) = (file, Vec::new());
        file.read_to_end(&mut back).unwrap();
        assert_eq!(back, content);
    }

    #[test]
    fn behind_a_damaged_piece_everything_else_is_still_read() {
        let (seal, keys) = key();
        let content = vec![7; 1 << 20];
        let mut stored = sealed(&seal, &content);
        let at = stored.len() / 2;
        stored[at] ^= 1;
        let file =
            Decrypted::open(Box::new(Memory(stored.clone(), Arc::default())), Arc::clone(&keys)).unwrap();
        let bad = (0..16).filter(|i| file.read_at().read_exact_at(i * 65_536 + 3, 1000).is_err()).count();
        assert_eq!(bad, 1);
        assert_eq!(file.read_at().read_exact_at(900_000, 1000).unwrap(), vec![7; 1000]);
        let error = (0..16).find_map(|i| file.read_at().read_exact_at(i * 65_536 + 3, 9).err()).unwrap();
        assert!(error.to_string().contains("cannot be decrypted"), "{error}");
        stored.truncate(700_000);
        let cut = Decrypted::open(Box::new(Memory(stored, Arc::default())), keys).unwrap();
        assert!(cut.read_at().read_exact_at(690_000, 20_000).is_err());
    }
}
