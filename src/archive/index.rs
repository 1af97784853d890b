//! The index of a tar component: which entries stand in which frame.
//!
//! JSON lines in zstd frames, so that `zstd -dc application.index.zst` shows them. A line is either a frame
//! of the archive, followed by the entries that begin in it, or such an entry:
//!
//! ```text
//! {"frame":17,"offset":1048213,"stored":301222,"raw":1047552}
//! {"path":"var/www/app/artisan","type":"file","size":1686,"mtime":1700000000,"mode":493,"at":2048}
//! ```
//!
//! The last JSON frame is a directory with a line for each earlier one, giving its first path, and a zstd
//! skippable frame of 28 bytes says where the directory begins. One file is found by reading the end, the
//! directory and one frame of lines: never by a scan of the whole.

use std::io;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::outlet::Outlet;
use super::{below, path_order};
use crate::crypt::Seal;
use crate::manifest::PathText;
use crate::model::Sha256;

/// Lines are cut into frames of about this many bytes.
const CHUNK: usize = 256 << 10;
const FOOTER_MAGIC: [u8; 4] = 0x184D_2A5B_u32.to_le_bytes(); // one of zstd's sixteen skippable frame numbers
const FOOTER_TAG: &[u8; 4] = b"BAIX";
const FOOTER_VERSION: u32 = 1;
/// Bytes of the footer: magic, length, tag, version, offset, length of the directory.
const FOOTER: usize = 4 + 4 + 4 + 4 + 8 + 4;
const INDEX_LEVEL: i32 = 3;

/// A frame of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRecord {
    /// Its number, from 0.
    pub frame: u64,
    /// Where it begins in the stored file.
    pub offset: u64,
    /// Its stored length.
    pub stored: u32,
    /// Its length after decompression.
    pub raw: u32,
}

/// What an entry is, in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A further name of a file already in the archive.
    Hardlink,
}

/// An entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Path in the archive; folders end in `/`.
    pub path: PathText,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Length of the content.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Permission bits.
    pub mode: u32,
    /// Where its first header stands in the decompressed frame.
    pub at: u32,
    /// What a link names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathText>,
}

impl IndexEntry {
    /// True for a regular file, under its first name or a further one.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::File | EntryKind::Hardlink)
    }
}

#[derive(Serialize, Deserialize)]
struct DirectoryLine {
    first: PathText,
    frame: u64,
    offset: u64,
    stored: u32,
    raw: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Frame(FrameRecord),
    Entry(IndexEntry),
}

/// Writes an index while the archive is written.
pub(super) struct IndexWriter<'a> {
    outlet: Outlet<&'a mut (dyn io::Write + Send)>,
    compressor: zstd::bulk::Compressor<'static>,
    written: u64,
    lines: Vec<u8>,
    chunk_first: Option<(PathText, u64)>,
    last_path: PathText,
    directory: Vec<u8>,
}

impl<'a> IndexWriter<'a> {
    pub fn new(sink: &'a mut (dyn io::Write + Send), seal: Option<&Seal>) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(INDEX_LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Self {
            outlet: Outlet::new(sink, seal)?,
            compressor,
            written: 0,
            lines: Vec::with_capacity(CHUNK + 4096),
            chunk_first: None,
            last_path: PathText(Vec::new()),
            directory: Vec::new(),
        })
    }

    /// Notes a frame and the entries that begin in it.
    pub fn add(&mut self, frame: &FrameRecord, entries: &[IndexEntry]) -> io::Result<()> {
        if self.chunk_first.is_none() {
            let first = entries.first().map_or_else(|| self.last_path.clone(), |e| e.path.clone());
            self.chunk_first = Some((first, frame.frame));
        }
        self.line(frame)?;
        for entry in entries {
            self.line(entry)?;
        }
        if let Some(last) = entries.last() {
            self.last_path.clone_from(&last.path);
        }
        if self.lines.len() >= CHUNK { self.flush_chunk() } else { Ok(()) }
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, line)?;
        self.lines.push(b'\n');
        Ok(())
    }

    fn flush_chunk(&mut self) -> io::Result<()> {
        let Some((first, frame)) = self.chunk_first.take() else { return Ok(()) };
        let lines = std::mem::take(&mut self.lines);
        let offset = self.written;
        let stored = self.write_frame(&lines)?;
        let line = DirectoryLine { first, frame, offset, stored, raw: lines.len() as u32 };
        serde_json::to_writer(&mut self.directory, &line)?;
        self.directory.push(b'\n');
        self.lines = lines;
        self.lines.clear();
        Ok(())
    }

    fn write_frame(&mut self, bytes: &[u8]) -> io::Result<u32> {
        let frame = self.compressor.compress(bytes)?;
        self.write(&frame)?;
        Ok(frame.len() as u32)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        io::Write::write_all(&mut self.outlet, bytes)
    }

    /// Writes directory and footer; gives digest and length of the whole index, as it is stored.
    pub fn finish(mut self) -> io::Result<(Sha256, u64)> {
        self.flush_chunk()?;
        let offset = self.written;
        let directory = std::mem::take(&mut self.directory);
        let stored = self.write_frame(&directory)?;
        let mut footer = Vec::with_capacity(FOOTER);
        footer.extend_from_slice(&FOOTER_MAGIC);
        footer.extend_from_slice(&(FOOTER as u32 - 8).to_le_bytes());
        footer.extend_from_slice(FOOTER_TAG);
        footer.extend_from_slice(&FOOTER_VERSION.to_le_bytes());
        footer.extend_from_slice(&offset.to_le_bytes());
        footer.extend_from_slice(&stored.to_le_bytes());
        self.write(&footer)?;
        self.outlet.finish()
    }
}

/// Where one entry stands.
#[derive(Debug, Clone)]
pub struct Located {
    /// The entry.
    pub entry: IndexEntry,
    /// The frames that hold it, in order.
    pub frames: Vec<FrameRecord>,
}

/// Reads an index that is in memory or mapped.
///
/// `read_at(offset, length)` gives exactly that many bytes of the index file.
pub struct IndexReader<R> {
    read_at: R,
    directory: Vec<DirectoryLine>,
}

impl<R: Fn(u64, usize) -> Result<Vec<u8>>> IndexReader<R> {
    /// Reads the footer and the directory of an index of `length` bytes.
    pub fn open(length: u64, read_at: R) -> Result<Self> {
        let footer_at = length.checked_sub(FOOTER as u64).context("the index is too short to be one")?;
        let footer = read_at(footer_at, FOOTER)?;
        if footer[..4] != FOOTER_MAGIC || &footer[8..12] != FOOTER_TAG {
            bail!("the index has no footer: it is cut off, or not an index");
        }
        let word =
            |at: usize| u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
        if word(12) > FOOTER_VERSION {
            bail!(
                "the index has version {}, this program reads up to {FOOTER_VERSION}: update the agent",
                word(12)
            );
        }
        let offset = u64::from(word(16)) | u64::from(word(20)) << 32;
        let stored = u64::from(word(24));
        if offset + stored != footer_at {
            bail!("the index's footer does not fit its length: it is damaged");
        }
        let directory = read_at(offset, stored as usize)?;
        let directory =
            zstd::stream::decode_all(&directory[..]).context("the index's directory is damaged")?;
        let directory = parse_lines(&directory)?;
        Ok(Self { read_at, directory })
    }

    /// How many pieces the index itself has.
    pub fn chunks(&self) -> usize {
        self.directory.len()
    }

    /// The frames of the archive that one of these pieces lists, in order.
    pub fn frames_in(&self, chunk: usize) -> Result<Vec<FrameRecord>> {
        let lines = self.chunk(chunk)?.into_iter();
        let frame = |line| if let Line::Frame(frame) = line { Some(frame) } else { None };
        Ok(lines.filter_map(frame).collect())
    }

    fn chunk(&self, number: usize) -> Result<Vec<Line>> {
        let line = &self.directory[number];
        let stored = (self.read_at)(line.offset, line.stored as usize)?;
        let raw =
            zstd::bulk::decompress(&stored, line.raw as usize).context("a frame of the index is damaged")?;
        parse_lines(&raw)
    }

    /// The pieces that can hold entries at or below any of these paths, which end without `/`, in order. The frames
    /// that continue an entry stand with it.
    pub fn chunks_below(&self, roots: &[Vec<u8>]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut each: Vec<Range<usize>> = roots.iter().map(|root| self.range_below(root)).collect();
        each.sort_by_key(|range| range.start);
        for range in each {
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        ranges
    }

    fn range_below(&self, root: &[u8]) -> Range<usize> {
        let is_past = |first: &[u8]| below(root, first).is_none() && path_order(first, root).is_gt();
        let end = self.directory.partition_point(|line| !is_past(&line.first.0));
        self.last_chunk_before(root)..end
    }

    /// A chunk that only continues a big file has that file's path as its first, so that an entry may stand at the
    /// end of the last chunk that begins before it.
    fn last_chunk_before(&self, path: &[u8]) -> usize {
        self.directory.partition_point(|line| path_order(&line.first.0, path).is_lt()).saturating_sub(1)
    }

    /// Every frame of the archive with the entries that begin in it, in order.
    pub fn for_each(&self, visit: impl FnMut(&FrameRecord, Vec<IndexEntry>) -> Result<()>) -> Result<()> {
        self.for_each_in(0..self.directory.len(), visit)
    }

    /// The same for some of the pieces.
    pub fn for_each_in(
        &self,
        chunks: Range<usize>,
        mut visit: impl FnMut(&FrameRecord, Vec<IndexEntry>) -> Result<()>,
    ) -> Result<()> {
        let mut current: Option<(FrameRecord, Vec<IndexEntry>)> = None;
        for number in chunks {
            for line in self.chunk(number)? {
                match line {
                    Line::Frame(frame) => {
                        if let Some((frame, entries)) = current.replace((frame, Vec::new())) {
                            visit(&frame, entries)?;
                        }
                    }
                    Line::Entry(entry) => match &mut current {
                        Some((_, entries)) => entries.push(entry),
                        None => bail!("the index is damaged: an entry stands before the first frame"),
                    },
                }
            }
        }
        current.map_or(Ok(()), |(frame, entries)| visit(&frame, entries))
    }

    /// Finds the entry of exactly this path, reading one or two frames of the index.
    pub fn find(&self, path: &[u8]) -> Result<Option<Located>> {
        let mut chunk = self.last_chunk_before(path);
        let mut found: Option<Located> = None;
        let mut frame = None;
        while chunk < self.directory.len() {
            for line in self.chunk(chunk)? {
                match (line, &mut found) {
                    (Line::Frame(next), Some(located)) => {
                        located.frames.push(next);
                        frame = Some(next);
                    }
                    (Line::Frame(next), None) => frame = Some(next),
                    // The last frame noted is the one this entry begins in.
                    (Line::Entry(_), Some(located)) => {
                        if located.frames.len() > 1 {
                            located.frames.pop();
                        }
                        return Ok(found);
                    }
                    (Line::Entry(entry), None) if entry.path.0 == path => {
                        let frame =
                            frame.context("the index is damaged: an entry stands before the first frame")?;
                        found = Some(Located { entry, frames: vec![frame] });
                    }
                    (Line::Entry(entry), None) if path_order(&entry.path.0, path).is_gt() => return Ok(None),
                    (Line::Entry(_), None) => {}
                }
            }
            chunk += 1;
        }
        Ok(found)
    }
}

fn parse_lines<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<Vec<T>> {
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).context("a line of the index is damaged"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> IndexEntry {
        IndexEntry {
            path: path.into(),
            kind: EntryKind::File,
            size: 3,
            mtime: 1,
            mode: 0o644,
            at: 0,
            target: None,
        }
    }

    /// 300 frames of 40 entries each, and a big file that goes on for 5,000 frames.
    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = IndexWriter::new(&mut out, None).unwrap();
        let mut number = 0;
        let mut frame = || {
            number += 1;
            FrameRecord { frame: number - 1, offset: (number - 1) * 100, stored: 100, raw: 1000 }
        };
        for f in 0..300 {
            let entries: Vec<_> = (0..40).map(|i| entry(&format!("dir{f:04}/file{i:03}"))).collect();
            writer.add(&frame(), &entries).unwrap();
        }
        writer.add(&frame(), &[entry("huge")]).unwrap();
        for _ in 0..5000 {
            writer.add(&frame(), &[]).unwrap();
        }
        writer.add(&frame(), &[entry("last")]).unwrap();
        let (digest, length) = writer.finish().unwrap();
        assert_eq!(length, out.len() as u64);
        assert_eq!(digest.0, <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&out)));
        out
    }

    type FromMemory = Box<dyn Fn(u64, usize) -> Result<Vec<u8>>>;

    fn open(bytes: &[u8]) -> Result<IndexReader<FromMemory>> {
        let bytes = bytes.to_vec();
        let length = bytes.len() as u64;
        let read_at = move |offset: u64, length: usize| {
            bytes.get(offset as usize..offset as usize + length).map(<[u8]>::to_vec).context("out of range")
        };
        IndexReader::open(length, Box::new(read_at) as FromMemory)
    }

    #[test]
    fn every_entry_is_found_by_its_path_and_others_are_not() {
        let index = open(&sample()).unwrap();
        for f in [0, 1, 150, 299] {
            for i in [0, 39] {
                let path = format!("dir{f:04}/file{i:03}");
                let located = index.find(path.as_bytes()).unwrap().expect(&path);
                assert_eq!(located.entry.path.0, path.as_bytes());
                assert_eq!(located.frames[0].frame, f);
            }
        }
        for missing in ["", "a", "dir0150/file0005", "dir0299/zzz", "zzz"] {
            assert!(index.find(missing.as_bytes()).unwrap().is_none(), "{missing:?} was found");
        }
    }

    #[test]
    fn what_is_at_or_below_paths_is_found_without_reading_the_rest() {
        let index = open(&sample()).unwrap();
        let below = |roots: &[&str]| {
            let roots: Vec<Vec<u8>> = roots.iter().map(|root| root.as_bytes().to_vec()).collect();
            let ranges = index.chunks_below(&roots);
            let read: usize = ranges.iter().map(|range| range.len()).sum();
            let (mut paths, mut continued) = (Vec::new(), 0);
            for range in ranges {
                let visit = |_: &FrameRecord, entries: Vec<IndexEntry>| {
                    continued += usize::from(entries.is_empty());
                    paths.extend(entries.into_iter().map(|entry| entry.path.0));
                    Ok(())
                };
                index.for_each_in(range, visit).unwrap();
            }
            paths.retain(|path| {
                roots.iter().any(|root| path == root || path.starts_with(&[&root[..], b"/"].concat()))
            });
            (paths.len(), continued, read)
        };
        let all = index.chunks();
        assert!(all > 4, "{all} pieces");
        for folder in ["dir0000", "dir0123", "dir0299"] {
            let (entries, _, read) = below(&[folder]);
            assert_eq!(entries, 40, "{folder}");
            assert!(read <= 2, "{read} pieces for {folder}");
        }
        let (entries, _, read) = below(&["dir0250/file007", "dir0010", "dir0010/file001"]);
        assert_eq!((entries, read <= 4), (41, true));
        // With all that continues it, wherever pieces end.
        assert_eq!((below(&["huge"]).0, below(&["huge"]).1), (1, 5000));
        assert_eq!((below(&["last"]).0, below(&["nothing"]).0, below(&["a"]).0, below(&[]).2), (1, 0, 0, 0));
        let everything = index.chunks_below(&[Vec::new(), b"huge".to_vec()]);
        assert_eq!(everything.as_slice(), std::slice::from_ref(&(0..all)));
    }

    #[test]
    fn a_file_of_many_frames_is_located_with_all_of_them() {
        let index = open(&sample()).unwrap();
        let huge = index.find(b"huge").unwrap().unwrap();
        assert_eq!(huge.frames.first().unwrap().frame, 300);
        assert!(huge.frames.iter().map(|f| f.frame).eq(300..=5300));
        assert_eq!(index.find(b"last").unwrap().unwrap().frames[0].frame, 5301);
    }

    #[test]
    fn a_cut_or_foreign_index_is_refused() {
        let bytes = sample();
        for cut in [0, 10, bytes.len() - 1, bytes.len() - FOOTER] {
            assert!(open(&bytes[..cut]).is_err(), "cut at {cut} was accepted");
        }
        assert!(open(&b"x".repeat(100)).is_err());
    }

    #[test]
    fn it_is_readable_as_json_lines_by_plain_zstd() {
        let text = zstd::stream::decode_all(&sample()[..]).unwrap();
        let lines: Vec<serde_json::Value> = parse_lines(&text).unwrap();
        assert_eq!(lines[0]["frame"], 0);
        assert_eq!(lines[1]["path"], "dir0000/file000");
    }
}
