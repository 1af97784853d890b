//! `agent key`: the keys that encrypted backups are opened with.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::args::{Global, Key, KeyCheck, KeyVerb, Keys};
use super::{code, common, output};
use crate::clock::{Clock, SystemClock};
use crate::crypt::{self, KeyFiles};
use crate::event::Progress;
use crate::manifest::Encryption;
use crate::model::{ByteSize, JobName, RunId, TargetName};
use crate::ops::stored::Backup;
use crate::ops::{Agent, key_check, keys, open_target};

pub fn key(global: &Global, args: &Key) -> Result<u8> {
    match &args.verb {
        KeyVerb::Generate { output } => generate(output.as_deref()),
        KeyVerb::Check(args) => check(global, args),
    }
}

/// The files named on the command line, their paths made absolute: another process may read them.
pub fn given(args: &Keys) -> Result<KeyFiles> {
    let absolute = |file: &std::path::PathBuf| std::path::absolute(file);
    Ok(KeyFiles {
        identities: args.identity.iter().map(absolute).collect::<Result<_, _>>()?,
        passphrase_file: args.passphrase_file.as_ref().map(absolute).transpose()?,
    })
}

/// The files with the keys for backups of a job: those given, else the passphrase this host encrypts with.
pub fn files(agent: &Agent, job: &JobName, args: &Keys) -> Result<KeyFiles> {
    Ok(keys::files(&agent.config, agent.config.job.get(job), &given(args)?))
}

fn generate(to: Option<&Path>) -> Result<u8> {
    let made = crypt::generate(SystemClock.now());
    let Some(to) = to else {
        output::print(made.file.expose());
        eprintln!("public key: {}", made.public);
        return Ok(code::OK);
    };
    let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => bail!(
            "{} exists and is left as it is: backups may be encrypted to the key in it; choose another name",
            to.display()
        ),
        Err(e) => return Err(e).with_context(|| format!("creating {}", to.display())),
    };
    file.write_all(made.file.expose().as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing {}", to.display()))?;
    output::print(&format!(
        "public key: {public}\n\
         \n\
         Into the configuration of the servers whose backups it shall open:\n\
         \x20   [encryption]\n\
         \x20   recipients = [\"{public}\"]\n\
         \n\
         Move {to} to where you will find it when the server is gone, twice, and not onto the server itself: without\n\
         it nobody can read the backups, you neither. Try it now and then: agent key check --identity FILE\n",
        public = made.public,
        to = to.display()
    ));
    Ok(code::OK)
}

/// What came of one job.
enum Found {
    NoBackup,
    InClear { run: RunId, target: TargetName },
    Tried { run: RunId, target: TargetName, checked: key_check::Checked },
    Failed { why: String },
}

fn check(global: &Global, args: &KeyCheck) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let agent = common::open_reading(global, config)?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let jobs: Vec<JobName> = match &args.job {
        Some(job) => vec![job.clone()],
        None => agent.state.jobs()?.into_iter().map(|row| row.job).collect(),
    };
    let files = given(&args.keys)?;
    if files.is_empty() {
        return Err(common::UsageError(
            "which key? Give its file with --identity, or a passphrase's with --passphrase-file".to_owned(),
        )
        .into());
    }
    let ring = Arc::new(files.read()?);
    let (mut opened, mut bad, mut answers) = (0, 0, Vec::new());
    for job in jobs {
        let found = match try_job(&agent, &job, args, &ring, &progress) {
            Err(e) if progress.is_cancelled() => return Err(e),
            Err(e) => Found::Failed { why: format!("{e:#}") },
            Ok(found) => found,
        };
        match &found {
            Found::Tried { checked, .. } if checked.problems.is_empty() => opened += 1,
            Found::Tried { .. } | Found::Failed { .. } => bad += 1,
            Found::NoBackup | Found::InClear { .. } => {}
        }
        match args.json {
            true => answers.push(as_json(&job, &found)),
            false => output::print(&as_text(&job, &found)),
        }
    }
    if args.json {
        output::json(&answers)?;
    }
    if opened + bad == 0 {
        bail!("there is no encrypted backup that the key could be tried on");
    }
    Ok(if bad == 0 { code::OK } else { code::FAILURE })
}

fn try_job(
    agent: &Agent,
    job: &JobName,
    args: &KeyCheck,
    ring: &Arc<crypt::Keyring>,
    progress: &Progress,
) -> Result<Found> {
    if agent.state.last_success(job)?.is_none() {
        return Ok(Found::NoBackup);
    }
    let run = common::find_run_at(agent, "latest", Some(job), args.target.as_ref())?;
    let copy = common::nearest(agent, &run, args.target.as_ref())?;
    if copy.imported {
        return Ok(Found::NoBackup);
    }
    let location = copy.location.context("the backup has no location")?;
    let target = open_target(&copy.target, agent.target(&copy.target)?)?;
    let backup = Backup::open(target.as_ref(), &location, &run.run_id)?;
    if backup.manifest.encryption == Encryption::None {
        return Ok(Found::InClear { run: run.run_id, target: copy.target });
    }
    let backup = backup.with_keys(Arc::clone(ring))?;
    let checked = key_check::check(&backup, progress)?;
    Ok(Found::Tried { run: run.run_id, target: copy.target, checked })
}

fn as_text(job: &JobName, found: &Found) -> String {
    match found {
        Found::NoBackup => format!("{} {job}: there is no backup yet\n", output::tinted("skipped", 8)),
        Found::InClear { run, target } => {
            format!("{} {job}: {run} at {target} is not encrypted\n", output::tinted("skipped", 8))
        }
        Found::Failed { why } => format!("{} {job}: {why}\n", output::tinted("failed", 8)),
        Found::Tried { run, target, checked } => {
            let word = if checked.problems.is_empty() { "opened" } else { "failed" };
            let names: Vec<&str> = checked.components.iter().map(|(name, _)| name.as_str()).collect();
            let bytes = ByteSize(checked.components.iter().map(|(_, bytes)| bytes).sum());
            let what = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            let mut text =
                format!("{} {job}: {run} at {target}: {what} ({bytes} decrypted)\n", output::tinted(word, 8));
            checked.problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n")));
            text
        }
    }
}

fn as_json(job: &JobName, found: &Found) -> Value {
    match found {
        Found::NoBackup => json!({"job": job, "result": "no-backup"}),
        Found::InClear { run, target } => {
            json!({"job": job, "result": "not-encrypted", "run_id": run, "target": target})
        }
        Found::Failed { why } => json!({"job": job, "result": "failed", "problems": [why]}),
        Found::Tried { run, target, checked } => json!({
            "job": job,
            "result": if checked.problems.is_empty() { "opened" } else { "failed" },
            "run_id": run,
            "target": target,
            "components": checked.components.iter()
                .map(|(name, bytes)| json!({"component": name, "bytes": bytes})).collect::<Vec<_>>(),
            "problems": checked.problems,
        }),
    }
}
