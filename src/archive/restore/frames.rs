//! Frames back into files, by several threads at once.
//!
//! ```text
//! read frames in order ─▶ [decompress + place] × threads ─▶ links, attributes of folders
//! ```
//!
//! The unit of work is a *group*: a frame in which entries begin, and those behind it that only continue its
//! last one. A group needs nothing of any other, so damage in one frame costs the entries of its group. At
//! most a few frames are in memory for each thread, however long a group is.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::attributes::Attributes;
use super::later::{Later, thin};
use super::place::Restorer;
use super::{RestoreOptions, RestoreSummary, open_root, sync};
use crate::archive::entries::TarReader;
use crate::archive::frames::Decompressor;
use crate::archive::header::END;
use crate::archive::index::FrameRecord;
use crate::archive::select::Selection;
use crate::event::{Interrupted, is_interruption};
use crate::manifest::{Codec, PathText};

/// Frames above this are refused: the engine writes none nearly as large.
const FRAME_MAX: u32 = 64 << 20;

/// A frame in which entries begin, and the frames that continue the last of them.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The frames, in order.
    pub frames: Vec<FrameRecord>,
    /// The paths of its entries that are wanted, in the order of the archive.
    pub names: Vec<Vec<u8>>,
}

/// What is stored of a frame cannot be read, or is not what was written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("frame {frame}, at byte {offset}, is damaged: {reason}")]
pub struct DamagedFrame {
    /// Its number.
    pub frame: u64,
    /// Where it begins in the stored file.
    pub offset: u64,
    /// Why.
    pub reason: String,
}

/// The damage an error comes from, when it comes from what is stored and not from where it is restored to.
pub fn damage(error: &anyhow::Error) -> Option<&DamagedFrame> {
    error.chain().find_map(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(|e| e.get_ref());
        inner.and_then(|e| e.downcast_ref::<DamagedFrame>()).or_else(|| cause.downcast_ref())
    })
}

/// Gives groups, in the order of the archive, to what it is called with; ends with the first error of it.
pub type Groups<'g> = dyn FnMut(&mut dyn FnMut(Group) -> Result<()>) -> Result<()> + 'g;
/// Reads the stored bytes of a frame.
pub type ReadFrame<'r> = dyn FnMut(&FrameRecord) -> io::Result<Vec<u8>> + 'r;

/// Restores groups of frames below `root`, `options.threads` at once; with a selection, only its paths.
/// `groups` and `read` are called on the calling thread, frame after frame.
pub fn restore_frames(
    root: &Path,
    codec: Codec,
    selection: Option<&Selection>,
    options: &RestoreOptions,
    groups: &mut Groups<'_>,
    read: &mut ReadFrame<'_>,
) -> Result<RestoreSummary> {
    let root_fd = open_root(root)?;
    let shared = Shared {
        root: root_fd.as_fd(),
        codec,
        selection,
        options,
        later: Mutex::default(),
        working: Mutex::default(),
        stopped: AtomicBool::new(false),
    };
    let mut summary = thread::scope(|scope| {
        let (send, tasks) = bounded(options.threads);
        let workers: Vec<_> = (0..options.threads.max(1))
            .map(|_| {
                let (shared, tasks) = (&shared, tasks.clone());
                scope.spawn(move || {
                    let done = shared.work(&tasks);
                    if done.is_err() {
                        shared.stopped.store(true, Ordering::Relaxed);
                    }
                    done
                })
            })
            .collect();
        drop(tasks);
        let handed_out = shared.hand_out(groups, read, send);
        let mut summary = RestoreSummary::default();
        let mut errors: Vec<anyhow::Error> = handed_out.err().into_iter().collect();
        for worker in workers {
            match worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(done) => summary.add(done),
                Err(e) => errors.push(e),
            }
        }
        // The first that went wrong stopped the others.
        let cause = errors.iter().position(|e| !is_interruption(e)).unwrap_or_default();
        if options.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        if errors.is_empty() { Ok(summary) } else { Err(errors.swap_remove(cause)) }
    })?;
    let mut restorer = Restorer::new(shared.root, options, &shared.later)?;
    shared.take_later().finish(&mut restorer)?;
    summary.add(restorer.summary);
    sync(shared.root, root, options)?;
    Ok(summary)
}

/// A group on its way to a thread, its frames following one by one.
struct Task {
    number: u64,
    group: Group,
    stored: Receiver<io::Result<Vec<u8>>>,
}

struct Shared<'a> {
    root: BorrowedFd<'a>,
    codec: Codec,
    selection: Option<&'a Selection>,
    options: &'a RestoreOptions,
    later: Mutex<Later>,
    /// The first paths of the groups that are handed out and not done.
    working: Mutex<BTreeMap<u64, Vec<u8>>>,
    stopped: AtomicBool,
}

impl Shared<'_> {
    fn working(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Vec<u8>>> {
        self.working.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn take_later(&self) -> Later {
        std::mem::take(&mut *self.later.lock().unwrap_or_else(|e| e.into_inner()))
    }

    fn hand_out(&self, groups: &mut Groups<'_>, read: &mut ReadFrame<'_>, tasks: Sender<Task>) -> Result<()> {
        let mut number = 0;
        groups(&mut |group| {
            let Some(first) = group.names.first() else { return Ok(()) };
            self.working().insert(number, first.clone());
            let (send, stored) = bounded(2);
            let frames = group.frames.clone();
            if tasks.send(Task { number, group, stored }).is_err() {
                return Err(Interrupted.into()); // all workers are gone, with the reason
            }
            number += 1;
            for frame in &frames {
                if self.options.progress.is_cancelled() || self.stopped.load(Ordering::Relaxed) {
                    return Err(Interrupted.into());
                }
                let bytes = if frame.stored.max(frame.raw) > FRAME_MAX {
                    Err(io::Error::other(format!("{} bytes are more than a frame has", frame.raw)))
                } else {
                    read(frame)
                };
                // A worker that gave the group up wants no more of it; reading goes on, for the digest.
                let _ = send.send(bytes);
            }
            Ok(())
        })
    }

    fn work(&self, tasks: &Receiver<Task>) -> Result<RestoreSummary> {
        let mut restorer = Restorer::new(self.root, self.options, &self.later)?;
        let mut decompressor = Decompressor::new(self.codec)?;
        for task in tasks {
            if self.options.progress.is_cancelled() || self.stopped.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            let mut done = 0;
            let result = self.group(&task, &mut restorer, &mut decompressor, &mut done);
            if let Err(error) = result {
                let Some(damaged) = damage(&error).filter(|_| self.options.keep_going) else {
                    return Err(error);
                };
                for path in task.group.names.iter().skip(done) {
                    let why = format!("lost: {damaged}");
                    restorer.summary.problems.push((PathText(path.clone()), why));
                    restorer.summary.lost += 1;
                }
            }
            let first_missing = {
                let mut working = self.working();
                working.remove(&task.number);
                working.first_key_value().map(|(_, path)| path.clone())
            };
            if let Some(path) = first_missing {
                thin(&self.later, &path, &mut restorer)?;
            }
        }
        Ok(restorer.summary)
    }

    /// Restores the entries of one group; `done` counts those of its names that need no more care.
    fn group(
        &self,
        task: &Task,
        restorer: &mut Restorer<'_>,
        decompressor: &mut Decompressor,
        done: &mut usize,
    ) -> Result<()> {
        let frames = task.group.frames.iter();
        let mut feed = Feed { stored: &task.stored, frames, decompressor, current: io::Cursor::default() };
        // Frames are whole entries without the archive's end, so it is put behind them.
        let mut stream = (&mut feed).chain(&END[..]);
        let mut archive = TarReader::new(&mut stream);
        while let Some(entry) = archive.next().map_err(|e| self.unreadable(task, e))? {
            let size = entry.size;
            let mut attributes = Attributes::read(entry).map_err(|e| self.unreadable(task, e))?;
            match self.selection {
                Some(selection) if selection.paths.contains(&attributes.path) => {}
                Some(selection) => match selection.aliases.get(&attributes.path) {
                    Some(alias) => attributes.path.clone_from(alias),
                    None => continue,
                },
                None => {}
            }
            if let Some(alias) = self.selection.and_then(|s| s.aliases.get(&attributes.link)) {
                attributes.link.clone_from(alias);
            }
            restorer.restore(&mut archive, size, attributes)?;
            *done += 1;
        }
        Ok(())
    }

    /// What stands in the frames is no tar: as much a damage as a frame that cannot be decompressed.
    fn unreadable(&self, task: &Task, error: anyhow::Error) -> anyhow::Error {
        match (damage(&error), task.group.frames.first()) {
            (None, Some(frame)) => {
                let reason = format!("{error:#}");
                anyhow!(DamagedFrame { frame: frame.frame, offset: frame.offset, reason })
            }
            _ => error.context("reading the archive"),
        }
    }
}

/// The frames of a group, decompressed one after the other.
struct Feed<'a> {
    stored: &'a Receiver<io::Result<Vec<u8>>>,
    frames: std::slice::Iter<'a, FrameRecord>,
    decompressor: &'a mut Decompressor,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Feed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.current.read(out)?;
            if got > 0 || out.is_empty() {
                return Ok(got);
            }
            let Some(frame) = self.frames.next() else { return Ok(0) };
            let Ok(stored) = self.stored.recv() else {
                // Whoever reads the frames stopped, and says why.
                return Err(io::Error::other(Interrupted));
            };
            let raw = stored.and_then(|bytes| self.decompressor.decompress(&bytes, frame.raw as usize));
            self.current = io::Cursor::new(raw.map_err(|e| {
                let reason = e.to_string();
                io::Error::other(DamagedFrame { frame: frame.frame, offset: frame.offset, reason })
            })?);
        }
    }
}
