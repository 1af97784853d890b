//! The two ways into the engine: a tree becomes a tar component with an index, a stream becomes frames.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};

use super::header::END;
use super::index::IndexWriter;
use super::limits::SEGMENT;
use super::meta::Names;
use super::outlet::Outlet;
use super::plan::Planner;
use super::pool::{self, Submit, Throttle, Totals, Work};
use super::segment::{Builder, Report};
use super::walk::walk;
use super::{Options, TreeSpec};
use crate::crypt::Seal;
use crate::event::Interrupted;
use crate::manifest::{FileWarning, INLINE_WARNINGS};
use crate::model::{Sha256, WarningCounts, WarningKind};

/// Where the bytes of a tree go.
pub struct Outputs<'a> {
    /// The component.
    pub archive: &'a mut (dyn Write + Send),
    /// Its index.
    pub index: &'a mut (dyn Write + Send),
    /// All warnings as JSON lines in one zstd frame, if there are more than fit into the manifest, or any at
    /// all and everything is encrypted; called once, when that shows.
    pub warnings: &'a mut (dyn FnMut() -> Result<Box<dyn Write + Send>> + Send),
}

/// What was captured.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Content bytes read from the source.
    pub source_bytes: u64,
    /// Bytes before compression.
    pub raw_bytes: u64,
    /// Bytes written.
    pub stored_bytes: u64,
    /// Digest of the bytes written.
    pub sha256: Sha256,
    /// Tar entries.
    pub entries: u64,
    /// Regular files among them, further names of a file included; what `allow_empty` looks at.
    pub files: u64,
    /// Frames written.
    pub frames: u64,
    /// Digest and length of the index, for a tree.
    pub index: Option<(Sha256, u64)>,
    /// Warnings by kind.
    pub warning_counts: WarningCounts,
    /// The first of them; of an encrypted backup they must stand nowhere in clear.
    pub warnings: Vec<FileWarning>,
    /// Digest and length of the list of all warnings, where there is one.
    pub warnings_file: Option<(Sha256, u64)>,
}

/// Captures a file tree. `now` (seconds since 1970) dates virtual files.
pub fn capture_tree(spec: &TreeSpec, options: &Options, now: i64, outputs: Outputs<'_>) -> Result<Captured> {
    let builder = Builder { names: Names::default(), throttle: Throttle::new(options.read_limit) };
    let seal = options.seal.as_deref();
    let mut index = IndexWriter::new(outputs.index, seal).context("starting the index")?;
    let mut warnings = WarningList::new(outputs.warnings, seal);
    let (mut entries, mut files) = (0, 0);
    let totals = pool::run(
        options,
        &builder,
        outputs.archive,
        |submit| {
            let mut planner = Planner::new(|items| submit.send(Work::Plan(items)));
            walk(spec, now, &options.progress, &mut planner)?;
            submit.send(Work::Raw(END.to_vec()))
        },
        &mut |frame, report: Report| {
            entries += report.entries.len() as u64;
            files += report.entries.iter().filter(|e| e.is_file()).count() as u64;
            if frame.raw > 0 {
                index.add(frame, &report.entries).context("writing the index")?;
            }
            report.warnings.into_iter().try_for_each(|w| warnings.push(w))
        },
    )?;
    let index = index.finish().context("writing the index")?;
    let (warning_counts, warnings, warnings_file) = warnings.finish()?;
    // The end blocks went through as raw bytes; they are no content.
    let source_bytes = totals.source_bytes - END.len() as u64;
    let index = Some(index);
    Ok(Captured {
        source_bytes,
        entries,
        files,
        index,
        warning_counts,
        warnings,
        warnings_file,
        ..stream(totals)
    })
}

/// Captures a stream of bytes to its end.
pub fn capture_stream(
    source: &mut (dyn Read + Send),
    options: &Options,
    archive: &mut (dyn Write + Send),
) -> Result<Captured> {
    let builder = Builder { names: Names::default(), throttle: Throttle::new(options.read_limit) };
    let throttle = &builder.throttle;
    let mut first = true;
    let produce = |submit: &Submit| loop {
        if options.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        let segment = read_segment(source)?;
        throttle.take(segment.len() as u64);
        if segment.is_empty() && !first {
            return Ok(());
        }
        first = false;
        submit.send(Work::Raw(segment))?;
    };
    pool::run(options, &builder, archive, produce, &mut |_, _| Ok(())).map(stream)
}

/// The next bytes of a stream: as many as make a segment, fewer at its end. (`read_to_end` would ask in small steps,
/// and clear what it asks for again and again.)
fn read_segment(source: &mut (dyn Read + Send)) -> io::Result<Vec<u8>> {
    let mut segment = vec![0; SEGMENT];
    let mut filled = 0;
    while filled < SEGMENT {
        match source.read(&mut segment[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    segment.truncate(filled);
    Ok(segment)
}

fn stream(totals: Totals) -> Captured {
    Captured {
        source_bytes: totals.source_bytes,
        raw_bytes: totals.raw_bytes,
        stored_bytes: totals.stored_bytes,
        sha256: totals.sha256,
        entries: 0,
        files: 0,
        frames: totals.frames,
        index: None,
        warning_counts: WarningCounts::default(),
        warnings: Vec::new(),
        warnings_file: None,
    }
}

/// The first warnings in memory, all of them in a file once there are more; when everything is encrypted, from
/// the first on, since the manifest is not.
struct WarningList<'a> {
    open: &'a mut (dyn FnMut() -> Result<Box<dyn Write + Send>> + Send),
    seal: Option<&'a Seal>,
    counts: WarningCounts,
    first: Vec<FileWarning>,
    file: Option<zstd::stream::write::Encoder<'static, Outlet<Box<dyn Write + Send>>>>,
}

impl<'a> WarningList<'a> {
    fn new(
        open: &'a mut (dyn FnMut() -> Result<Box<dyn Write + Send>> + Send),
        seal: Option<&'a Seal>,
    ) -> Self {
        Self { open, seal, counts: WarningCounts::default(), first: Vec::new(), file: None }
    }

    fn push(&mut self, warning: FileWarning) -> Result<()> {
        self.counts.add(warning.kind);
        let fits = self.first.len() < INLINE_WARNINGS;
        if self.file.is_none() && (!fits || self.seal.is_some()) {
            let outlet = Outlet::new((self.open)()?, self.seal).context("starting the list of warnings")?;
            let mut encoder =
                zstd::stream::write::Encoder::new(outlet, 3).context("starting the list of warnings")?;
            encoder.include_checksum(true).context("starting the list of warnings")?;
            for earlier in &self.first {
                write_line(&mut encoder, earlier)?;
            }
            self.file = Some(encoder);
        }
        if let Some(file) = &mut self.file {
            write_line(file, &warning)?;
        }
        if fits {
            self.first.push(warning);
        }
        Ok(())
    }

    #[allow(clippy::type_complexity)] // the three parts go straight into one struct
    fn finish(self) -> Result<(WarningCounts, Vec<FileWarning>, Option<(Sha256, u64)>)> {
        let file = match self.file {
            None => None,
            Some(encoder) => {
                let outlet = encoder.finish().context("writing the list of warnings")?;
                Some(outlet.finish().context("writing the list of warnings")?)
            }
        };
        // What could not be read matters more than what changed, so it is shown first.
        let mut first = self.first;
        first.sort_by_key(|w| (w.kind != WarningKind::Unreadable, w.kind == WarningKind::Skipped));
        Ok((self.counts, first, file))
    }
}

fn write_line(out: &mut impl Write, warning: &FileWarning) -> Result<()> {
    serde_json::to_writer(&mut *out, warning).context("writing the list of warnings")?;
    out.write_all(b"\n").context("writing the list of warnings")
}
