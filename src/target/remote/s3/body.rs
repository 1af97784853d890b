//! Bodies of requests: in memory or in a file, digested, and sent so that it shows whether bytes go.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::sign::EMPTY;

/// How much is handed over at once.
const PIECE: usize = 128 << 10;

/// Where bytes come from; cheap to clone.
#[derive(Clone)]
pub(super) enum Source {
    Bytes(Bytes),
    File { file: Arc<File>, length: u64 },
}

impl Source {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// The next piece from an offset on, which lies before the end.
    fn piece(&self, offset: u64) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let start = offset as usize;
                Ok(bytes.slice(start..bytes.len().min(start + PIECE)))
            }
            Self::File { file, length } => {
                let mut piece = vec![0; (length - offset).min(PIECE as u64) as usize];
                file.read_exact_at(&mut piece, offset)?;
                Ok(piece.into())
            }
        }
    }
}

/// A body with its digests: the store compares both with what arrives.
#[derive(Clone)]
pub(super) struct Payload {
    pub(super) source: Source,
    /// In hexadecimal digits; part of the signature.
    pub(super) sha256: String,
    /// In base64. What Object Lock asks for.
    pub(super) md5: Option<String>,
}

impl Payload {
    /// No body.
    pub(super) fn empty() -> Self {
        Self { source: Source::Bytes(Bytes::new()), sha256: EMPTY.to_owned(), md5: None }
    }

    /// Digests a body, which takes a while for large ones.
    pub(super) fn new(source: Source) -> io::Result<Self> {
        let (mut sha256, mut md5) = (Sha256::new(), Md5::new());
        let mut offset = 0;
        while offset < source.length() {
            let piece = source.piece(offset)?;
            sha256.update(&piece);
            md5.update(&piece);
            offset += piece.len() as u64;
        }
        Ok(Self {
            source,
            sha256: hex::encode(sha256.finalize()),
            md5: Some(STANDARD.encode(md5.finalize())),
        })
    }
}

/// Counts how much of a body was taken.
#[derive(Clone, Default)]
pub(super) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body on its way.
pub(super) struct Body {
    source: Source,
    offset: u64,
    taken: Taken,
}

impl Body {
    pub(super) fn new(source: Source, taken: Taken) -> Self {
        Self { source, offset: 0, taken }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.offset >= this.source.length() {
            return Poll::Ready(None);
        }
        // A file is read here and now: it is this machine's, and was written a moment ago.
        Poll::Ready(Some(this.source.piece(this.offset).map(|piece| {
            this.offset += piece.len() as u64;
            this.taken.0.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.offset >= self.source.length()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.source.length() - self.offset)
    }
}

/// A file without a name in this folder: it is gone when nobody has it open.
pub(super) fn nameless_file(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // Not every file system can make such files.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            use std::os::unix::fs::OpenOptionsExt as _;
            let path = folder.join(format!(".backup-agent-part-{:016x}", rand::random::<u64>()));
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        Err(e) => Err(e.into()),
    }
}
