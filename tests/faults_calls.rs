//! Single system calls that fail, and the order of those that make a backup durable, by strace. Rows 5 to
//! 9, 14 and 21 of the fault matrix.
#![cfg(feature = "real-peers")]

#[path = "support/world.rs"]
mod world;

use std::fs;

use world::invariants::Expect;
use world::{Out, Setup, World, output};

/// Each run has a folder name of its own, without folders for days: or the calls would depend on whether a minute or a
/// day has passed.
const KEEP: &str = "keep = { last = 2 }\ntemplate = \"daily/%Y%m%dT%H%M%S%3f\"";

/// A backup under strace, and its log. `-f` follows the threads and the process that makes copies.
fn traced(world: &World, options: &[&str]) -> (Out, Vec<String>) {
    let log = world.path("strace.log");
    let mut wrapper = vec!["strace", "-f", "-qq", "-o", log.to_str().unwrap()];
    wrapper.extend(options);
    let out = output(world.under(&wrapper, &["backup", "web", "--json"]));
    let text = String::from_utf8_lossy(&fs::read(&log).expect("strace works here")).into_owned();
    (out, joined(&text))
}

/// The calls in the order in which they ended. One that was interrupted by another thread's stands in two
/// lines, its beginning and its end; they are made one.
fn joined(text: &str) -> Vec<String> {
    let mut begun = std::collections::BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let thread = line.split(' ').next().unwrap().to_owned();
        if let Some(beginning) = line.strip_suffix("<unfinished ...>") {
            begun.insert(thread, beginning.to_owned());
        } else if let Some((_, end)) = line.split_once(" resumed>") {
            calls.push(begun.remove(&thread).unwrap_or_default() + end);
        } else {
            calls.push(line.to_owned());
        }
    }
    calls
}

/// The most calls of one kind that one thread makes.
fn most_calls(world: &World, call: &str) -> usize {
    let (out, log) = traced(world, &["-e", &format!("trace={call}")]);
    world.after(&out, Expect::Success);
    let mut count = std::collections::BTreeMap::new();
    for line in log.iter().filter(|l| l.contains(&format!(" {call}("))) {
        *count.entry(line.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
    }
    count.into_values().max().expect("calls")
}

/// A run in which a call fails. None where it did not come to that call: how often some are made depends a little on
/// how fast the machine is.
fn injected(world: &World, call: &str, inject: &str) -> Option<Out> {
    for _ in 0..5 {
        let (out, log) = traced(world, &["-e", &format!("trace={call}"), "-e", inject]);
        if log.iter().any(|l| l.contains("(INJECTED)")) {
            return Some(out);
        }
        world.after(&out, Expect::Success);
    }
    None
}

/// Lets the Nth call of each thread fail, for each N, a fresh run each.
fn each_fails(call: &str, error: &str, step: usize) {
    let world = World::with(Setup { nas: true, local: KEEP, nas_lines: KEEP, ..Setup::default() });
    for _ in 0..3 {
        world.recover();
    }
    let most = most_calls(&world, call);
    let mut bad = 0;
    for n in (1..=most).step_by(step) {
        eprintln!("{call} number {n} of {most} fails with {error}");
        let (mails, newest) = (world.mails().len(), world.list()[0]["run_id"].clone());
        let inject = format!("inject={call}:error={error}:when={n}");
        let Some(out) = injected(&world, call, &inject) else {
            assert!(4 * n > 3 * most, "it did not fire");
            continue;
        };
        world.check_backups();
        if out.code == 0 {
            // Nothing that matters failed.
            let list = world.list();
            assert!(list[0]["run_id"] != newest && list[0]["status"] == "verified", "{list:?}");
        } else {
            bad += 1;
            let spooled = fs::read_dir(world.path("state/spool")).map_or(0, Iterator::count);
            let told = world.mails().len() > mails || spooled > 0;
            assert!(told, "exit code {}, and nobody is told: {}", out.code, out.all());
        }
        world.run(&["tend", "--retry"]).expect(0);
        world.check_backups();
        world.recover();
    }
    assert!(bad > 0, "no failure of {call} did any harm");
}

#[test]
fn each_fsync_that_fails_is_a_failure_or_does_no_harm() {
    each_fails("fsync", "EIO", 1);
}

#[test]
fn each_rename_that_fails_is_a_failure_or_does_no_harm() {
    each_fails("renameat2", "EIO", 1);
}

#[test]
// Writes to targets fail in tests/faults_places.rs, one by one: here they could not be told apart from
// those that wake a thread up, which never fail.
fn each_write_to_the_state_that_fails_is_a_failure_or_does_no_harm() {
    each_fails("pwrite64", "ENOSPC", 6);
}

#[test]
fn a_read_error_in_the_middle_of_a_file_is_partial_and_never_passed_off_as_good() {
    let world = World::new();
    world.exempt("large");
    world.write("src/large", vec![7; 6_000_000]);
    world.recover();
    for (file, n) in [("src/large", 1), ("src/large", 3), ("src/media/photo.bin", 1)] {
        eprintln!("{file}, read {n}");
        world.exempt(file.strip_prefix("src/").unwrap());
        let path = world.path(file);
        let inject = format!("inject=read,pread64,readv,preadv:error=EIO:when={n}+");
        let (out, log) = traced(&world, &["-P", path.to_str().unwrap(), "-e", &inject]);
        assert!(log.iter().any(|l| l.contains("(INJECTED)")), "it did not fire: {log:?}");
        world.after(&out, Expect::Partial);
        let run = out.run_id().unwrap();
        let shown = world.run(&["show", &run]).expect(0).stdout;
        assert!(shown.contains(path.strip_prefix("/").unwrap().to_str().unwrap()), "{shown}");
        world.run(&["verify", &run, "--deep"]).expect(0);
        world.recover();
    }
}

/// One line of a log: the call, and the path of its first descriptor or the whole of its arguments.
struct Call<'a> {
    name: &'a str,
    arguments: &'a str,
}

fn parse(line: &str) -> Option<Call<'_>> {
    let rest = line.split_once(' ')?.1.trim_start();
    let (name, arguments) = rest.split_once('(')?;
    Some(Call { name, arguments })
}

/// The place in the log of the first or last line that holds all these texts.
struct Log(Vec<String>);

impl Log {
    fn all(&self, call: &str, texts: &[&str]) -> Vec<usize> {
        let fits = |line: &String| {
            parse(line).is_some_and(|c| c.name == call && texts.iter().all(|t| c.arguments.contains(t)))
        };
        self.0.iter().enumerate().filter(|(_, l)| fits(l)).map(|(i, _)| i).collect()
    }

    #[track_caller]
    fn first(&self, call: &str, texts: &[&str]) -> usize {
        *self.all(call, texts).first().unwrap_or_else(|| panic!("no {call} with {texts:?}"))
    }

    #[track_caller]
    fn last(&self, call: &str, texts: &[&str]) -> usize {
        *self.all(call, texts).last().unwrap_or_else(|| panic!("no {call} with {texts:?}"))
    }

    /// Whether such a call stands between two others.
    fn between(&self, from: usize, to: usize, call: &str, texts: &[&str]) -> bool {
        self.all(call, texts).iter().any(|i| from < *i && *i < to)
    }
}

#[test]
fn folders_made_on_the_way_are_durable_before_the_backup_is_visible() {
    let world = World::new();
    let (out, log) = traced(&world, &["-y", "-e", "trace=mkdir,fsync,renameat2"]);
    world.after(&out, Expect::Success);
    let log = Log(log);
    let base = world.path("local").display().to_string();
    let publish = log.first("renameat2", &["/.partial-", "= 0"]);
    let made = log.all("mkdir", &[&format!("\"{base}/daily"), "= 0"]);
    assert_eq!(made.len(), 4, "daily/YYYY/MM/DD");
    for at in made {
        let path = log.0[at].split('"').nth(1).unwrap();
        let parent = path.rsplit_once('/').unwrap().0;
        assert!(log.between(at, publish, "fsync", &[&format!("<{parent}>")]), "{path} in its parent");
    }
}

#[test]
fn the_order_of_calls_survives_a_power_cut_at_any_moment() {
    let world = World::with(Setup { nas: true, local: KEEP, nas_lines: KEEP, ..Setup::default() });
    world.recover();
    world.recover();
    let before: Vec<_> = world.list().iter().map(|c| c["run_id"].as_str().unwrap().to_owned()).collect();
    let calls = "trace=openat,write,fsync,close,rename,renameat2,mkdir,mkdirat,unlinkat,unlink,pwrite64";
    let (out, log) = traced(&world, &["-y", "-s", "300", "-e", calls]);
    world.after(&out, Expect::Success);
    let log = Log(log);
    let run = out.run_id().unwrap();
    // The list is newest first; ids of one second have no order.
    let expired = before.last().unwrap();
    for target in ["local", "nas"] {
        let base = world.path(target).display().to_string();
        let staged = format!("{base}/.partial-{run}");
        let publish = log.first("renameat2", &[&format!("\"{staged}\""), "= 0"]);
        let files =
            ["application.tar.zst", "application.index.zst", "RESTORE.txt", "SHA256SUMS", "manifest.json"];
        let mut durable = Vec::new();
        for file in files {
            let path = format!("{staged}/{file}");
            let made = log.first("openat", &[&format!("\"{path}\""), "O_EXCL"]);
            let fd = format!("<{path}>");
            let written = log.last("write", &[&fd]);
            let synced = log.first("fsync", &[&fd]);
            let closed = log.first("close", &[&fd]);
            assert!(made < written && written < synced && synced < closed, "{target}: {file}");
            assert!(closed < publish, "{target}: {file} is not durable before the backup is visible");
            durable.push((made, synced));
        }
        // The commit marker is begun when all else is durable.
        let (manifest_made, manifest_synced) = durable[4];
        assert!(durable[..4].iter().all(|(_, synced)| *synced < manifest_made), "{target}");
        let folder = format!("<{staged}>");
        assert!(
            log.between(manifest_synced, publish, "fsync", &[&folder]),
            "{target}: entries of the folder"
        );
        // The state knows the place before the rename.
        let wal = "/state/state.db-wal>";
        assert!(
            log.between(manifest_synced, publish, "fsync", &[wal]),
            "{target}: the place is not recorded"
        );
        // Folders made on the way are durable in their parents.
        // The new name is durable before the run is recorded as good, or the copy as made.
        let copy = world.list().into_iter().find(|c| c["run_id"] == run.as_str() && c["target"] == target);
        let parent = world.folder(&copy.unwrap()).parent().unwrap().display().to_string();
        let recorded = log.all("fsync", &[wal]).into_iter().find(|i| *i > publish).unwrap();
        for folder in [parent, base.clone()] {
            let fd = format!("<{folder}>");
            assert!(log.between(publish, recorded, "fsync", &[&fd]), "{target}: {folder} after the rename");
        }
        // Retention: after the new backup; recorded, taken out of sight durably, and only then removed.
        let hidden = format!("{base}/.expired-{expired}");
        let removal = log.first("renameat2", &[&format!("\"{hidden}\""), "= 0"]);
        assert!(publish < removal, "{target}: an old backup went before the new one was there");
        assert!(log.between(recorded, removal, "fsync", &[wal]), "{target}: the removal is not recorded");
        let first_unlink =
            log.all("unlinkat", &[]).into_iter().find(|i| *i > removal).expect("files are removed");
        assert!(log.between(removal, first_unlink, "fsync", &[&format!("<{base}>")]), "{target}: removal");
    }
}
