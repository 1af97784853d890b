//! The contract of stream sources, held against programs that behave badly: what is not whole is never
//! taken for whole, nothing hangs, nothing is left running, and no secret is shown.

mod mysql;
mod scripts;
mod sqlite;
#[path = "../peers/stage.rs"]
mod stage;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use backup_agent::event::Interrupted;
use backup_agent::source::Capture;

use scripts::{CANARY, Scripts, ends, part, source, text};
use stage::Stage;

#[test]
fn a_program_that_does_its_work_yields_all_of_its_output() {
    let stage = Stage::new();
    let source = stage
        .command("echo CREATE TABLE; echo warning: old >&2; echo '-- END'; echo", "end_marker = '-- END'");
    assert_eq!(source.preflight(&stage.context).unwrap().parts[0].file_name, "database.sql");
    assert!(source.preflight(&stage.context).unwrap().warnings.is_empty());
    let (bytes, result) = stage.read(&*source);
    result.unwrap();
    assert_eq!(bytes, b"CREATE TABLE\n-- END\n\n");
}

#[test]
fn an_exit_code_other_than_zero_fails_whatever_was_written() {
    let stage = Stage::new();
    let source =
        stage.command("echo data; echo '-- END'; echo lost connection >&2; exit 2", "end_marker = '-- END'");
    let error = stage.read(&*source).1.unwrap_err();
    assert!(text(&error).contains("exit code 2") && text(&error).contains("lost connection"), "{error:#}");
}

#[test]
fn a_death_by_signal_fails() {
    let stage = Stage::new();
    let error = stage.read(&*stage.command("echo data; kill -SEGV $$", "")).1.unwrap_err();
    assert!(text(&error).contains("SIGSEGV"), "{error:#}");
}

#[test]
fn a_dump_that_broke_off_with_exit_code_zero_fails_by_its_missing_end_marker() {
    let stage = Stage::new();
    let source = stage.command("echo '-- END'; echo INSERT INTO", "end_marker = '-- END'");
    let error = stage.read(&*source).1.unwrap_err();
    assert!(text(&error).contains("cut off") && text(&error).contains("-- END"), "{error:#}");
}

#[test]
fn nothing_written_fails_unless_it_is_allowed() {
    let stage = Stage::new();
    let error = stage.read(&*stage.command("exit 0", "")).1.unwrap_err();
    assert!(text(&error).contains("wrote nothing"), "{error:#}");
    let (bytes, result) = stage.read(&*stage.command("exit 0", "allow_empty = true"));
    result.unwrap();
    assert!(bytes.is_empty());
}

#[test]
fn at_the_deadline_the_whole_process_group_is_ended() {
    let stage = Stage::new();
    let pids = stage.dir.path().join("pids");
    let body = format!(
        "trap '' TERM\necho $$ >> {pids}\nsh -c 'trap \"\" TERM; echo $$ >> {pids}; while :; do sleep 1; done' &\necho data\nwait",
        pids = pids.display()
    );
    // Both must have begun by then; a machine with other work takes its time for that.
    for limit in ["1s", "10s", "50s"] {
        let _ = fs::remove_file(&pids);
        let (bytes, result) = stage.read(&*stage.command(&body, &format!("timeout = '{limit}'")));
        let error = text(&result.unwrap_err());
        assert!(error.contains(&format!("had not finished after {limit}")), "{error}");
        let begun = stage.pids("pids");
        let both = begun.len() == 2 && bytes == b"data\n";
        assert!(begun.into_iter().all(ends), "a process outlived the deadline");
        if both {
            return;
        }
    }
    panic!("the stub did not start both of its processes");
}

#[test]
fn a_stream_that_is_given_up_ends_its_program() {
    let stage = Stage::new();
    let pids = stage.dir.path().join("pids");
    let body = format!("echo $$ > {}\nwhile :; do echo data; sleep 0.01; done", pids.display());
    let mut stream = stage.start(&*stage.command(&body, "")).unwrap();
    let mut some = [0; 5];
    stream.reader().read_exact(&mut some).unwrap();
    drop(stream);
    assert!(ends(stage.pids("pids")[0]));
}

#[test]
fn a_run_that_is_cancelled_ends_the_program_soon() {
    let stage = Stage::new();
    let source = stage.command("echo data; exec sleep 600", "");
    let progress = stage.context.progress.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        progress.cancel();
    });
    let start = Instant::now();
    let error = stage.read(&*source).1.unwrap_err();
    canceller.join().unwrap();
    assert!(error.is::<Interrupted>(), "{error:#}");
    assert!(start.elapsed() < Duration::from_secs(300), "{:?}", start.elapsed());
}

#[test]
fn a_flood_on_standard_error_does_not_block_and_its_end_is_kept() {
    let stage = Stage::new();
    // 100 MB in lines, then the line that matters.
    let body = "yes 'warning: the same thing again and again and again' | head -c 100000000 >&2\necho data\necho 'the last word' >&2\nexit 1";
    let (bytes, result) = stage.read(&*stage.command(body, ""));
    let error = text(&result.unwrap_err());
    assert_eq!(bytes, b"data\n");
    assert!(error.lines().next().unwrap().ends_with(": the last word"), "{error}");
    assert!(error.lines().count() < 20, "{error}");
}

#[test]
fn a_slow_reader_holds_the_program_back_instead_of_filling_memory() {
    let stage = Stage::new();
    let pid = stage.dir.path().join("pid");
    let body = format!("echo $$ > {}\nexec head -c 200000000 /dev/zero", pid.display());
    let mut stream = stage.start(&*stage.command(&body, "")).unwrap();
    let written = || -> u64 {
        let Some(pid) = stage.pids("pid").first().copied() else { return 0 };
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
    };
    // It writes as much as it can, and has time for more.
    let start = Instant::now();
    while written() < 4096 {
        assert!(start.elapsed() < Duration::from_secs(60), "the program writes nothing");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(700));
    let written = written();
    assert!((1..4 << 20).contains(&written), "{written} bytes were taken from it while nobody read");
    let n = std::io::copy(&mut stream.reader(), &mut std::io::sink()).unwrap();
    assert_eq!(n, 200_000_000);
    stream.finish().unwrap();
}

#[test]
fn a_secret_is_visible_in_no_argument_error_or_debug_text() {
    let stage = Stage::new();
    let secret = stage.file("secret", &format!("{CANARY}\n"), 0o600);
    let body = "test \"$DUMP_PASSWORD\" = canary-passw0rd || exit 9\nset >&2\necho \"login $DUMP_PASSWORD failed\" >&2\necho ready\nwhile ! test -e \"$GO\"; do sleep 0.05; done\nexit 3";
    let go = stage.dir.path().join("go");
    let settings =
        format!("env = {{ GO = '{}' }}\n[env_file]\nDUMP_PASSWORD = '{}'", go.display(), secret.display());
    let source = stage.command(body, &settings);
    source.preflight(&stage.context).unwrap();
    let mut stream = stage.start(&*source).unwrap();
    let mut ready = [0; 6];
    stream.reader().read_exact(&mut ready).unwrap();

    let mut seen = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else { continue };
        let cmdline = String::from_utf8_lossy(&cmdline).into_owned();
        assert!(!cmdline.contains(CANARY), "{cmdline}");
        seen += usize::from(cmdline.contains(&*stage.dir.path().to_string_lossy()));
    }
    assert!(seen > 0, "the program was not running while its arguments were looked at");
    fs::write(go, "").unwrap();

    let mut rest = Vec::new();
    let _ = stream.reader().read_to_end(&mut rest);
    let error = stream.finish().unwrap_err();
    assert!(text(&error).contains("exit code 3"), "{error:#}");
    for shown in [format!("{error:#}"), format!("{error:?}")] {
        assert!(!shown.contains(CANARY) && shown.contains("[secret]"), "{shown}");
    }
}

#[test]
fn a_secret_file_that_others_can_read_is_refused_by_the_preflight() {
    let stage = Stage::new();
    let secret = stage.file("secret", CANARY, 0o644);
    let source = stage.command("echo x", &format!("[env_file]\nDUMP_PASSWORD = '{}'", secret.display()));
    let error = text(&source.preflight(&stage.context).unwrap_err());
    assert!(
        error.contains("DUMP_PASSWORD") && error.contains("chmod 600") && !error.contains(CANARY),
        "{error}"
    );
}

#[test]
fn a_missing_program_is_named_by_the_preflight() {
    let stage = Stage::new();
    let source = source("type = 'command'\ncommand = ['no-such-dump-program']");
    let error = text(&source.preflight(&stage.context).unwrap_err());
    assert!(error.contains("no-such-dump-program"), "{error}");
    assert!(stage.read(&*source).1.is_err());
}

#[test]
fn what_the_system_says_about_itself_is_a_tree_of_paths_and_answers() {
    let stage = Stage::new();
    let source = source("type = 'system'\nextra_paths = ['/opt']\nexclude = ['*.tmp']");
    assert_eq!(part(&*source).file_name, "database.tar");
    let Capture::Tree(spec) = source.open(&part(&*source), &stage.context).unwrap() else {
        panic!("a tree was expected")
    };
    assert!(spec.roots.contains(&PathBuf::from("/etc")) && spec.roots.contains(&PathBuf::from("/opt")));
    assert!(spec.allow_missing_roots);
    assert_eq!(spec.exclude, ["*.tmp"]);
    let file = |name: &str| {
        let path = format!("system-state/{name}");
        spec.virtual_files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {name}"))
    };
    assert!(file("uname.txt").bytes.starts_with(b"Linux"));
    assert_eq!(file("NOTES.txt").mode, 0o600);
}
