//! The threads: one that produces segments, some that compress, one that writes, one that digests; between those
//! two one that encrypts, when that is asked for.
//!
//! Order is kept without a buffer for reordering: each piece of work goes to the workers together with a
//! place in a queue of answers, and the writer takes the answers in the order of the queue. The queue's
//! length bounds what is in flight, and with it the memory.

use std::io::{self, Write as _};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::Digest;

use super::Options;
use super::frames::Compressor;
use super::index::FrameRecord;
use super::outlet::Split;
use super::plan::Item;
use super::segment::{Builder, Report};
use crate::crypt::Seal;
use crate::event::Interrupted;
use crate::failpoint;
use crate::model::Sha256;

/// What a worker turns into a frame.
pub(super) enum Work {
    /// A planned segment: open, read, build.
    Plan(Vec<Item>),
    /// Bytes as they are; none at all still make a frame, so that an empty stream is a valid file.
    Raw(Vec<u8>),
}

struct Done {
    frame: Vec<u8>,
    raw: u32,
    report: Report,
    /// A segment of nothing but warnings makes no frame.
    keep: bool,
}

type Answer = Result<Done>;

/// Where the producer hands over its work.
pub(super) struct Submit {
    work: Sender<(Work, Sender<Answer>)>,
    queue: Sender<Receiver<Answer>>,
}

impl Submit {
    /// Hands over one piece; waits while too much is in flight. Fails once the writer has given up, whose
    /// error is the one that gets reported.
    pub fn send(&self, work: Work) -> Result<()> {
        let (answer, place) = bounded(1);
        self.queue.send(place).map_err(|_| Stopped)?;
        self.work.send((work, answer)).map_err(|_| Stopped)?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the writer stopped")]
struct Stopped;

/// What went through.
pub(super) struct Totals {
    pub frames: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    pub source_bytes: u64,
    pub sha256: Sha256,
}

/// Runs `produce`, compresses what it submits, writes it to `sink` in order, and calls `on_frame` for each
/// frame written. Returns when everything is written, or with the first error.
pub(super) fn run<P>(
    options: &Options,
    builder: &Builder,
    sink: &mut (dyn io::Write + Send),
    produce: P,
    on_frame: &mut (dyn FnMut(&FrameRecord, Report) -> Result<()> + Send),
) -> Result<Totals>
where
    P: FnOnce(&Submit) -> Result<()> + Send,
{
    let threads = options.threads.max(1);
    let (work_in, work_out) = bounded::<(Work, Sender<Answer>)>(threads);
    let (queue_in, queue_out) = bounded::<Receiver<Answer>>(2 * threads + 2);
    let (digest_in, digest_out) = bounded::<Vec<u8>>(4);
    let (spare_in, spare_out) = bounded::<Vec<u8>>(2 * threads + 8);
    thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        let producer = spawn("walk").spawn_scoped(scope, move || {
            be_good_neighbour(options);
            let submit = Submit { work: work_in, queue: queue_in };
            failpoint::hit("walk")?;
            produce(&submit)
        })?;
        let mut workers = Vec::new();
        for _ in 0..threads {
            let (work, spare) = (work_out.clone(), spare_out.clone());
            workers.push(spawn("compress").spawn_scoped(scope, move || {
                be_good_neighbour(options);
                compress_all(options, builder, &work, &spare)
            })?);
        }
        drop(work_out);
        let used = spare_in.clone();
        let digester = spawn("digest").spawn_scoped(scope, move || {
            be_good_neighbour(options);
            let mut digest = sha2::Sha256::new();
            for frame in digest_out {
                digest.update(&frame);
                let _ = spare_in.try_send(frame); // a full box of spares is no loss
            }
            Sha256(digest.finalize().into())
        })?;
        let (end, sealer) = match options.seal.as_deref() {
            None => (End::Plain { sink, digest: digest_in }, None),
            Some(seal) => {
                let (frames_in, frames_out) = bounded::<Vec<u8>>(4);
                let sealer = spawn("encrypt").spawn_scoped(scope, move || {
                    be_good_neighbour(options);
                    seal_all(seal, Split::new(sink, digest_in, spare_out), &frames_out, &used)
                })?;
                (End::Sealed(frames_in), Some(sealer))
            }
        };
        let writer = spawn("write").spawn_scoped(scope, move || {
            be_good_neighbour(options);
            write_all(options, end, &queue_out, on_frame)
        })?;
        // The writer's error comes first: the others only notice that it stopped.
        let written = writer.join().map_err(|p| panicked("writing", &*p));
        let produced = producer.join().map_err(|p| panicked("reading the source", &*p));
        for worker in workers {
            worker.join().map_err(|p| panicked("compressing", &*p))??;
        }
        let sealed = sealer.map(|s| s.join().map_err(|p| panicked("encrypting", &*p))).transpose()?;
        let sha256 = digester.join().map_err(|p| panicked("digesting", &*p))?;
        // Behind the writer, what went wrong is the reason why it stopped.
        let sealed = sealed.transpose()?;
        match (written?, produced?) {
            (Ok(mut totals), Ok(())) => {
                totals.stored_bytes = sealed.unwrap_or(totals.stored_bytes);
                totals.sha256 = sha256;
                Ok(totals)
            }
            (Err(e), Ok(())) => Err(e),
            (written, Err(e)) => match written {
                Err(first) if e.is::<Stopped>() => Err(first),
                _ => Err(e),
            },
        }
    })
}

fn compress_all(
    options: &Options,
    builder: &Builder,
    work: &Receiver<(Work, Sender<Answer>)>,
    spare: &Receiver<Vec<u8>>,
) -> Result<()> {
    let mut compressor = Compressor::new(options.codec).context("starting the compressor")?;
    let mut segment = Vec::new();
    for (work, answer) in work {
        let (report, keep) = match work {
            Work::Plan(items) => {
                let report = builder.build(items, &mut segment);
                (report, !segment.is_empty())
            }
            Work::Raw(bytes) => {
                segment = bytes;
                (Report { source_bytes: segment.len() as u64, ..Report::default() }, true)
            }
        };
        options.progress.add_source(report.source_bytes);
        options.progress.add_entries(report.entries.len() as u64);
        let mut frame = spare.try_recv().unwrap_or_default();
        failpoint::hit("compress")?;
        let result = compressor.compress(&segment, &mut frame).context("compressing");
        let raw = segment.len() as u32;
        // The writer may have given up; then nobody waits for the answer.
        let _ = answer.send(result.map(|()| Done { frame, raw, report, keep }));
    }
    Ok(())
}

/// Encrypts frame after frame into what stands behind; gives the bytes stored.
fn seal_all(
    seal: &Seal,
    behind: Split<'_>,
    frames: &Receiver<Vec<u8>>,
    used: &Sender<Vec<u8>>,
) -> Result<u64> {
    let mut writer = seal.writer(behind)?;
    for frame in frames {
        writer.write_all(&frame)?;
        let _ = used.try_send(frame); // a full box of spares is no loss
    }
    Ok(writer.finish()?.finish()?)
}

/// Where frames go that are in order.
enum End<'a> {
    /// Into the sink, and to the thread that digests.
    Plain { sink: &'a mut (dyn io::Write + Send), digest: Sender<Vec<u8>> },
    /// To the thread that encrypts.
    Sealed(Sender<Vec<u8>>),
}

impl End<'_> {
    fn take(&mut self, frame: Vec<u8>) -> Result<()> {
        match self {
            End::Plain { sink, digest } => {
                sink.write_all(&frame)?;
                digest.send(frame).map_err(|_| anyhow!("the digesting thread ended early"))
            }
            End::Sealed(frames) => frames.send(frame).map_err(|_| Stopped.into()),
        }
    }
}

/// Takes the frames in their order. `stored_bytes` of what it gives are those of the frames, before encryption.
fn write_all(
    options: &Options,
    mut end: End<'_>,
    queue: &Receiver<Receiver<Answer>>,
    on_frame: &mut (dyn FnMut(&FrameRecord, Report) -> Result<()> + Send),
) -> Result<Totals> {
    let mut totals =
        Totals { frames: 0, raw_bytes: 0, stored_bytes: 0, source_bytes: 0, sha256: Sha256([0; 32]) };
    for place in queue {
        if options.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        failpoint::hit("write-frame")?;
        let Done { frame, raw, report, keep } =
            place.recv().map_err(|_| anyhow!("a compressing thread ended early"))??;
        let source = report.source_bytes;
        if keep {
            let record = FrameRecord {
                frame: totals.frames,
                offset: totals.stored_bytes,
                stored: frame.len() as u32,
                raw,
            };
            totals.frames += 1;
            totals.raw_bytes += u64::from(raw);
            totals.stored_bytes += frame.len() as u64;
            options.progress.add_stored(frame.len() as u64);
            end.take(frame)?;
            on_frame(&record, report)?;
        } else {
            let nowhere =
                FrameRecord { frame: totals.frames, offset: totals.stored_bytes, stored: 0, raw: 0 };
            on_frame(&nowhere, report)?;
        }
        totals.source_bytes += source;
    }
    Ok(totals)
}

/// A panic as an error, so that a defect fails one run and is told instead of ending the process.
fn panicked(what: &str, payload: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    anyhow!("internal error while {what}: {text}; please report it")
}

/// Lowers the calling thread's claims on processor and disk. Being refused is no reason not to back up.
fn be_good_neighbour(options: &Options) {
    if options.nice > 0 {
        let _ = rustix::process::setpriority_process(None, options.nice); // Linux: of this thread
    }
    if options.idle_io {
        let _ = crate::sys::set_idle_io_priority();
    }
}

/// A limit on bytes read a second, shared by all workers.
pub(super) struct Throttle {
    limit: Option<u64>,
    next: Mutex<Instant>,
}

impl Throttle {
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.filter(|l| *l > 0), next: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may be read.
    pub fn take(&self, bytes: u64) {
        let Some(limit) = self.limit else { return };
        let wait = {
            let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
            let now = Instant::now();
            let start = (*next).max(now);
            *next = start + Duration::from_secs_f64(bytes as f64 / limit as f64);
            start - now
        };
        thread::sleep(wait);
    }
}
