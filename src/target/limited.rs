//! A target to and from which no more than so many bytes a second go.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::{Cache, Published, Removal, Scan, Sentinel, Space, Stage, StagedFile, StoredFile, Target};
use crate::archive::{ReadAt, Throttle};
use crate::event::Progress;
use crate::manifest::Pin;
use crate::model::{RunId, TargetName};
use crate::state::TargetIdentity;

/// Pieces a second: what is sent comes evenly, and no connection stands still for long.
const PIECES: u64 = 10;
/// The smallest piece.
const LEAST_PIECE: usize = 4096;

/// The same target, with the content of files limited to `limit` bytes a second in all; as it is without a limit.
pub fn limited(target: Box<dyn Target>, limit: Option<u64>) -> Box<dyn Target> {
    let Some(limit) = limit else { return target };
    let piece = usize::try_from(limit / PIECES).unwrap_or(usize::MAX).max(LEAST_PIECE);
    let pace = Pace { throttle: Arc::new(Throttle::new(Some(limit))), piece };
    Box::new(Limited { target, pace })
}

#[derive(Clone)]
struct Pace {
    throttle: Arc<Throttle>,
    /// Bytes at a time.
    piece: usize,
}

impl Pace {
    fn wait(&self, bytes: usize) {
        self.throttle.take(bytes as u64);
    }
}

struct Limited {
    target: Box<dyn Target>,
    pace: Pace,
}

impl Target for Limited {
    fn name(&self) -> &TargetName {
        self.target.name()
    }

    fn probe(&self) -> Result<Option<Space>> {
        self.target.probe()
    }

    fn identify(&self, now: DateTime<Utc>) -> Result<TargetIdentity> {
        self.target.identify(now)
    }

    fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel> {
        self.target.initialise(sentinel)
    }

    fn scan(&self, progress: &Progress) -> Result<Scan> {
        self.target.scan(progress)
    }

    fn probe_readable(&self, location: &str) -> Result<()> {
        self.target.probe_readable(location)
    }

    fn stage(&self, run: &RunId, locations: &[String]) -> Result<Box<dyn Stage>> {
        let stage = self.target.stage(run, locations)?;
        Ok(Box::new(LimitedStage { stage, pace: self.pace.clone() }))
    }

    fn open(&self, location: &str, file: &str, cache: Cache) -> Result<Box<dyn StoredFile>> {
        let file = self.target.open(location, file, cache)?;
        Ok(Box::new(LimitedFile { file: Mutex::new(file), pace: self.pace.clone() }))
    }

    fn holds(&self, location: &str, run: &RunId) -> Result<bool> {
        self.target.holds(location, run)
    }

    fn remove(&self, location: &str, run: &RunId) -> Result<Removal> {
        self.target.remove(location, run)
    }

    fn pin(&self, location: &str) -> Result<Option<Pin>> {
        self.target.pin(location)
    }

    fn set_pin(&self, location: &str, run: &RunId, pin: Option<&Pin>) -> Result<()> {
        self.target.set_pin(location, run, pin)
    }

    fn unfinished(&self) -> Result<Vec<RunId>> {
        self.target.unfinished()
    }

    fn clean(&self, run: &RunId) -> Result<bool> {
        self.target.clean(run)
    }
}

struct LimitedStage {
    stage: Box<dyn Stage>,
    pace: Pace,
}

impl Stage for LimitedStage {
    fn create(&mut self, file: &str) -> Result<Box<dyn StagedFile>> {
        let file = self.stage.create(file)?;
        Ok(Box::new(LimitedStagedFile { file, pace: self.pace.clone() }))
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        self.stage.scratch()
    }

    fn place(&self) -> String {
        self.stage.place()
    }

    fn settled(&self) -> Option<&str> {
        self.stage.settled()
    }

    fn publish(&mut self, location: &str) -> Result<Published> {
        self.stage.publish(location)
    }

    fn abandon(&mut self) -> Result<()> {
        self.stage.abandon()
    }
}

struct LimitedStagedFile {
    file: Box<dyn StagedFile>,
    pace: Pace,
}

impl Write for LimitedStagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(self.pace.piece)];
        self.pace.wait(piece.len());
        self.file.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagedFile for LimitedStagedFile {
    fn expect(&mut self, length: u64) {
        self.file.expect(length);
    }

    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        self.file.finish(length)
    }
}

struct LimitedFile {
    /// Some can be used by one thread at a time only. Reads that wait for their pace lose nothing by it.
    file: Mutex<Box<dyn StoredFile>>,
    pace: Pace,
}

impl LimitedFile {
    fn file(&self) -> MutexGuard<'_, Box<dyn StoredFile>> {
        self.file.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Read for LimitedFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = out.len().min(self.pace.piece);
        let got = self.file.get_mut().unwrap_or_else(|e| e.into_inner()).read(&mut out[..piece])?;
        self.pace.wait(got);
        Ok(got)
    }
}

impl ReadAt for LimitedFile {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.pace.wait(length);
        self.file().read_at().read_exact_at(offset, length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file().read_at().length()
    }
}

impl StoredFile for LimitedFile {
    fn read_at(&self) -> &dyn ReadAt {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::target::{DirectoryTarget, Mount};

    #[test]
    fn a_limited_target_takes_and_gives_no_more_than_its_bytes_a_second_and_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let directory = DirectoryTarget::new("nas".parse().unwrap(), folder.path().to_path_buf(), Mount::Any);
        let target = limited(Box::new(directory), Some(1_000_000));
        let run: RunId = "20261124T180000Z-k3f9qa".parse().unwrap();
        let content: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let least = Duration::from_millis(190);

        let begun = Instant::now();
        let mut stage = target.stage(&run, &["a/b".to_owned()]).unwrap();
        let mut file = stage.create("data").unwrap();
        file.write_all(&content).unwrap();
        file.finish(content.len() as u64).unwrap();
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
        assert_eq!(stage.publish("a/b").unwrap(), Published::Done);

        let begun = Instant::now();
        let mut read = Vec::new();
        target.open("a/b", "data", Cache::Warm).unwrap().read_to_end(&mut read).unwrap();
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
        assert_eq!(read, content);
        let file = target.open("a/b", "data", Cache::Warm).unwrap();
        assert_eq!(file.read_at().read_exact_at(1000, 5).unwrap(), content[1000..1005]);
        assert_eq!(file.read_at().length().unwrap(), content.len() as u64);
    }
}
