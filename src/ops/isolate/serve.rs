//! The child's side: one request is read, done, and answered.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::SIGN_OF_LIFE;
use super::protocol::{Reply, Request};
use crate::event::Progress;
use crate::ops::panics::unwinding;
use crate::ops::verify::{Depth, verify_files, verify_with};
use crate::ops::{copies, drill, prune, repair};

/// Reads one request, does it, and answers. Errors become an answer too.
pub fn serve(input: &mut dyn BufRead, output: &mut (dyn Write + Send)) -> Result<()> {
    let mut line = String::new();
    input.read_line(&mut line).context("reading the request")?;
    let request: Request = serde_json::from_str(&line).context("reading the request")?;
    let progress = Arc::<Progress>::default();
    let output = Mutex::new(output);
    let say = |reply: &Reply| -> Result<()> {
        let mut output = output.lock().map_err(|_| anyhow!("a thread panicked"))?;
        serde_json::to_writer(&mut *output, reply)?;
        output.write_all(b"\n")?;
        Ok(output.flush()?)
    };
    let done = AtomicBool::new(false);
    let reply = thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = Instant::now();
            while !done.load(Ordering::Relaxed) {
                if Instant::now() >= next {
                    let bytes = progress.source_bytes() + progress.stored_bytes();
                    let _ = say(&Reply::Progress { bytes });
                    next = Instant::now() + SIGN_OF_LIFE;
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        // The other thread must be stopped, and an answer given, whatever happens here.
        let result = unwinding(|| {
            answer(&request, &progress, &mut |location| {
                say(&Reply::Publishing { location: location.to_owned() })?;
                let mut line = String::new();
                input.read_line(&mut line).context("waiting to go on")?;
                if line.is_empty() { bail!("the run that asked for this copy is gone") } else { Ok(()) }
            })
        });
        done.store(true, Ordering::Relaxed);
        result
    });
    say(&reply.unwrap_or_else(|e| Reply::failed(&e)))
}

fn answer(
    request: &Request,
    progress: &Arc<Progress>,
    publishing: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    match request {
        Request::Probe { at } => Ok(Reply::Probed { space: at.open()?.probe()? }),
        Request::Identify { at, now } => Ok(Reply::Identified { identity: at.open()?.identify(*now)? }),
        Request::Scan { at } => Ok(Reply::Scanned { scan: at.open()?.scan(progress)? }),
        Request::Initialise { at, sentinel } => {
            Ok(Reply::Initialised { sentinel: at.open()?.initialise(sentinel)? })
        }
        Request::Verify { at, run, depth, keys } => {
            let keys = Arc::new(keys.read()?);
            let report = verify_with(at.open()?.as_ref(), &at.location, run, *depth, &keys, progress)?;
            Ok(Reply::Verified { report })
        }
        Request::VerifyFiles { at, files, depth } => {
            let report = verify_files(at.open()?.as_ref(), &at.location, files, *depth, progress)?;
            Ok(Reply::Verified { report })
        }
        Request::Repair { from, bad, locations, run } => {
            repair::replace(from, bad, locations, run, progress, publishing)
        }
        Request::Drill { at, run, folder, sample, keys } => {
            Ok(Reply::Drilled { proof: drill::prove(at, run, folder, *sample, keys, progress)? })
        }
        Request::Remove { at, run } => {
            let stays = prune::remove(at.open()?.as_ref(), &at.location, run)?;
            Ok(stays.map_or(Reply::Removed, |because| Reply::Stays { because }))
        }
        Request::Pin { at, run, pin } => {
            at.open()?.set_pin(&at.location, run, pin.as_ref()).map(|()| Reply::PinSet)
        }
        Request::Clean { at, run } => at.open()?.clean(run).map(|_| Reply::Removed),
        Request::Copy { from, to, locations, run } => {
            let depth = Depth::of(to.config.reads_back());
            copies::copy(from, to, locations, run, depth, progress, publishing)
        }
    }
}
