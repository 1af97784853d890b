use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;

fn sh(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script).timeout(Duration::from_secs(120))
}

/// Waits for a process to be gone or a zombie that its new parent has not collected yet.
fn gone(pid: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) => {
                return true;
            }
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    false
}

#[test]
fn output_is_what_the_program_printed() {
    let output = output(sh("echo hello; echo oops >&2"), &never()).unwrap();
    assert_eq!(output.text(), "hello\n");
    assert_eq!(output.stderr.lines, ["oops"]);
}

#[test]
fn a_failing_program_is_named_with_its_code_and_last_words() {
    let error = output(sh("echo 'no such table' >&2; exit 3"), &never()).unwrap_err();
    assert!(matches!(error, ProcessError::Failed { code: 3, .. }), "{error:?}");
    assert_eq!(error.to_string(), "program sh ended with exit code 3: no such table");
}

#[test]
fn a_program_killed_by_a_signal_is_told_with_the_signals_name() {
    let error = output(sh("echo partial; kill -9 $$"), &never()).unwrap_err();
    assert!(error.to_string().contains("killed by signal 9 (SIGKILL)"), "{error}");
}

#[test]
fn a_missing_program_is_told_with_what_to_do() {
    let error =
        output(Command::new("no-such-program-here").hint("install the package x"), &never()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no-such-program-here") && text.ends_with("install the package x"), "{text}");
    let error = output(Command::new("/etc/passwd"), &never()).unwrap_err();
    assert!(matches!(error, ProcessError::NotFound { .. }), "{error:?}");
}

#[test]
fn at_its_deadline_the_whole_group_is_killed_even_when_it_ignores_sigterm() {
    let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & echo $$; wait";
    // Both must have begun by then; a machine with other work takes its time for that.
    for limit in [500, 10_000, 50_000].map(Duration::from_millis) {
        let mut child = stream(sh(script).timeout(limit), never()).unwrap();
        let mut text = String::new();
        let read = child.read_to_string(&mut text);
        assert!(read.unwrap_err().to_string().contains("deadline"));
        let error = child.finish().unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error:?}");
        let pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
        let both = pids.len() == 2;
        assert!(pids.into_iter().all(gone));
        if both {
            return;
        }
    }
    panic!("the script did not start both of its processes");
}

#[test]
fn a_program_that_obeys_sigterm_is_not_waited_for_longer_than_needed() {
    // Sooner than after the grace; a machine with other work may stand still for longer than that, but not each time.
    let mut times = Vec::new();
    while times.iter().all(|took| *took >= GRACE) {
        assert!(times.len() < 10, "{times:?}");
        let start = Instant::now();
        let error = output(sh("exec sleep 600").timeout(Duration::from_millis(200)), &never()).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error:?}");
        times.push(start.elapsed());
    }
}

#[test]
fn a_cancelled_program_ends_soon() {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let mut child =
        stream(sh("echo started; exec sleep 600"), Arc::new(move || seen.load(Ordering::Relaxed))).unwrap();
    let mut first = [0; 8];
    child.read_exact(&mut first).unwrap();
    flag.store(true, Ordering::Relaxed);
    assert!(child.read(&mut first).unwrap_err().to_string().contains("interrupted"));
    assert!(matches!(child.finish().unwrap_err(), ProcessError::Cancelled { .. }));
}

#[test]
fn dropping_a_child_ends_its_group() {
    let mut child = stream(sh("sleep 600 & echo $!; wait"), never()).unwrap();
    let mut text = [0; 16];
    let n = child.read(&mut text).unwrap();
    let background: i32 = std::str::from_utf8(&text[..n]).unwrap().trim().parse().unwrap();
    let leader = child.pid() as i32;
    drop(child);
    assert!(gone(leader) && gone(background));
}

#[test]
fn what_a_good_program_left_running_is_ended() {
    let out = output(sh("sleep 600 >/dev/null 2>&1 & echo $!"), &never()).unwrap();
    assert!(gone(out.text().trim().parse().unwrap()));
}

#[test]
fn finishing_before_the_end_of_the_output_is_an_error() {
    let mut child = stream(sh("yes"), never()).unwrap();
    let mut some = [0; 10];
    child.read_exact(&mut some).unwrap();
    assert!(matches!(child.finish().unwrap_err(), ProcessError::NotReadToEnd { .. }));
    // Having read every byte without having seen the end is fine.
    let mut child = stream(sh("printf 12345"), never()).unwrap();
    child.read_exact(&mut some[..5]).unwrap();
    child.finish().unwrap();
}

#[test]
fn endless_output_is_refused_by_the_bounded_read() {
    let error = output(sh("yes").max_output(1000), &never()).unwrap_err();
    assert!(matches!(error, ProcessError::TooMuchOutput { limit: 1000, .. }), "{error:?}");
    assert_eq!(output(sh("printf 1234567890").max_output(10), &never()).unwrap().stdout.len(), 10);
}

#[test]
fn much_output_on_both_channels_arrives_whole() {
    let script = "head -c 8000000 /dev/zero & head -c 8000000 /dev/zero | tr '\\0' 'e' >&2; wait";
    let mut child = stream(sh(script), never()).unwrap();
    let mut bytes = Vec::new();
    child.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 8_000_000);
    child.finish().unwrap();
}

#[test]
fn the_environment_holds_only_what_is_given() {
    let command = Command::new("env").env("PLAIN", "1").env_secret("PASSWORD", Secret::new("hunter2"));
    assert!(!format!("{command:?}").contains("hunter2"));
    let text = output(command, &never()).unwrap().text();
    for line in text.lines() {
        let key = line.split('=').next().unwrap();
        let known = ["PATH", "LANG", "LC_ALL", "PLAIN", "PASSWORD"];
        assert!(known.contains(&key) || INHERITED.contains(&key), "{key} was passed on");
    }
    assert!(text.contains("PASSWORD=hunter2") && text.contains("LC_ALL=C.UTF-8"), "{text}");
}

#[test]
fn a_secret_the_program_prints_is_not_in_the_error() {
    let command = sh("echo \"cannot log in with $PASSWORD\" >&2; exit 1")
        .env_secret("PASSWORD", Secret::new("hunter2"));
    let error = output(command, &never()).unwrap_err();
    assert!(error.to_string().ends_with("cannot log in with [secret]"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[test]
fn standard_input_is_empty() {
    assert_eq!(output(sh("cat; echo end"), &never()).unwrap().text(), "end\n");
}

#[test]
fn programs_in_sbin_are_found_with_the_path_cron_gives() {
    let path = search_path();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    assert!(folders.contains(&PathBuf::from("/usr/sbin")));
    assert_eq!(find_program("sh").map(|p| p.is_absolute()), Some(true));
    assert_eq!(find_program(""), None);
}

/// Set in the copy of this test program that is going to be killed; names the file for the child's pid.
const VICTIM: &str = "BACKUP_AGENT_TEST_VICTIM";

#[test]
fn a_child_dies_with_an_agent_that_is_killed() {
    if let Some(file) = std::env::var_os(VICTIM) {
        let child = stream(sh("exec sleep 600").timeout(Duration::from_secs(600)), never()).unwrap();
        fs::write(file, child.pid().to_string()).unwrap();
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::tests::a_child_dies_with_an_agent_that_is_killed"])
        .env(VICTIM, &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let child: i32 = loop {
        if let Ok(pid) = fs::read_to_string(&file).unwrap_or_default().parse() {
            break pid;
        }
        assert!(Instant::now() < until, "the child did not start");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(fs::metadata(format!("/proc/{child}")).is_ok());
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(gone(child), "the child outlived the agent");
}
