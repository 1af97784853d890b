//! What is read of a large stored file where reading all of it would cost too much.
//!
//! A digest is over a whole file, so pieces need other evidence. Each frame of an archive carries a checksum of its
//! content and stands in the index: some are read and decompressed, the last one among them. A stream has no index: it
//! is decompressed from its beginning. Where neither is possible, the ends are read, which proves that they can be.

use std::io::{self, Read};

use anyhow::{Context, Result, ensure};

use crate::archive::{FrameReader, FrameRecord, IndexReader, ReadAt, StreamDecoder, Tallied};
use crate::event::{Interrupted, Progress};
use crate::manifest::{Encryption, Kind, Manifest, StoredFile};
use crate::target::{Cache, Target};

/// Files up to this size are read whole.
pub(super) const SMALL: u64 = 8 << 20;
/// How many pieces of a large file are read.
const PIECES: usize = 16;
/// The length of a piece that is no frame.
const PIECE: u64 = 1 << 20;
/// How much of a stream is decompressed.
const BEGINNING: u64 = 8 << 20;

/// What a look at a large file found.
pub(super) struct Looked {
    /// Its length.
    pub length: u64,
    /// Bytes read.
    pub read: u64,
}

/// Looks at a large file of a backup. An error says what is wrong with it.
pub(super) fn look(
    target: &dyn Target,
    location: &str,
    manifest: &Manifest,
    stored: &StoredFile,
    progress: &Progress,
) -> Result<Looked> {
    let file = target.open(location, &stored.file, Cache::Cold)?;
    let length = file.read_at().length().with_context(|| format!("looking at {}", stored.file))?;
    if length != stored.bytes {
        return Ok(Looked { length, read: 0 });
    }
    let component = manifest.components.iter().find(|component| component.file == stored.file);
    let readable = component.filter(|_| manifest.encryption == Encryption::None);
    let read = match readable.map(|component| (component.kind, &component.index)) {
        Some((Kind::Tar, Some(index))) => {
            let index = target.open(location, &index.file, Cache::Cold)?;
            let frames =
                choose(index.read_at(), length).with_context(|| format!("the index of {}", stored.file))?;
            let read = frames.iter().map(|frame| u64::from(frame.stored)).sum();
            let mut content = FrameReader::new(file.read_at(), manifest.codec, frames)?;
            io::copy(&mut content, &mut io::sink()).with_context(|| stored.file.clone())?;
            read
        }
        Some((Kind::Stream, _)) => {
            let stored_bytes = Tallied::new(file);
            let totals = stored_bytes.totals();
            let mut content = StreamDecoder::new(stored_bytes, manifest.codec);
            io::copy(&mut (&mut content).take(BEGINNING), &mut io::sink())
                .with_context(|| stored.file.clone())?;
            let file = target.open(location, &stored.file, Cache::Cold)?;
            totals.stored_bytes() + ends(file.read_at(), length)?
        }
        _ => ends(file.read_at(), length).with_context(|| stored.file.clone())?,
    };
    progress.add_source(read);
    match progress.is_cancelled() {
        true => Err(Interrupted.into()),
        false => Ok(Looked { length, read }),
    }
}

/// Frames of an archive of `length` bytes: some chosen by chance, and the last.
fn choose(index: &dyn ReadAt, length: u64) -> Result<Vec<FrameRecord>> {
    let reader = IndexReader::open(index.length()?, |offset, length| {
        index.read_exact_at(offset, length).context("reading the index")
    })?;
    let chunks = reader.chunks();
    ensure!(chunks > 0, "it lists no frame");
    let mut chosen: Vec<FrameRecord> = Vec::new();
    for number in 0..PIECES {
        let last = number + 1 == PIECES;
        let chunk = if last { chunks - 1 } else { rand::random_range(0..chunks) };
        let frames = reader.frames_in(chunk)?;
        let frame = match last {
            true => frames.last(),
            false => frames.get(rand::random_range(0..frames.len().max(1))),
        };
        chosen.extend(frame.filter(|frame| !chosen.iter().any(|known| known.frame == frame.frame)));
    }
    chosen.sort_by_key(|frame| frame.offset);
    for frame in &chosen {
        ensure!(
            frame.offset + u64::from(frame.stored) <= length,
            "frame {} lies beyond the end of the archive",
            frame.frame
        );
    }
    Ok(chosen)
}

/// Reads the first and the last piece.
fn ends(file: &dyn ReadAt, length: u64) -> Result<u64> {
    let piece = PIECE.min(length);
    file.read_exact_at(0, piece as usize).context("reading its beginning")?;
    file.read_exact_at(length - piece, piece as usize).context("reading its end")?;
    Ok(2 * piece)
}

/// Compares pieces of the large files of a copy with those it was made from: both ends, and some chosen by chance.
pub(super) fn compare(
    from: (&dyn Target, &str),
    copy: (&dyn Target, &str),
    manifest: &Manifest,
    progress: &Progress,
) -> Result<()> {
    for stored in manifest.files().filter(|stored| stored.bytes > SMALL) {
        let original = from.0.open(from.1, &stored.file, Cache::Warm)?;
        let copied = copy.0.open(copy.1, &stored.file, Cache::Cold)?;
        let last = stored.bytes - PIECE;
        let chosen = (0..PIECES - 2).map(|_| rand::random_range(0..=last));
        for offset in [0, last].into_iter().chain(chosen) {
            if progress.is_cancelled() {
                return Err(Interrupted.into());
            }
            let describe = || format!("reading {} at byte {offset}", stored.file);
            let [wanted, found] = [&original, &copied]
                .map(|file| file.read_at().read_exact_at(offset, PIECE as usize).with_context(describe));
            ensure!(found? == wanted?, "{} differs from its original after byte {offset}", stored.file);
            progress.add_source(PIECE);
        }
    }
    Ok(())
}
