//! Sources that fail, lie, change while they are read, shrink, or are not there. Rows 16 to 20, 22 to 25
//! and 27 of the fault matrix.

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use world::invariants::Expect;
use world::{Setup, World, output, system, wait_for};

/// Root reads everything, whatever the mode says, unless these capabilities are taken from it.
const LIKE_A_USER: [&str; 3] = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];

fn is_root() -> bool {
    system("id", &["-u"]).trim() == "0"
}

fn backup_like_a_user(world: &World) -> world::Out {
    let wrapper: &[&str] = if is_root() { &LIKE_A_USER } else { &[] };
    output(world.under(wrapper, &["backup", "web", "--json"]))
}

/// Makes a source file unreadable, and lets it be read again when dropped.
struct Unreadable(std::path::PathBuf);

impl Unreadable {
    fn new(world: &World, path: &str) -> Self {
        let path = world.path("src").join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        Self(path)
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

#[test]
fn an_unreadable_file_makes_the_backup_partial_and_names_the_file() {
    let world = World::new();
    let out = backup_like_a_user(&world);
    world.after(&out, Expect::Success);
    world.exempt("notes/3.txt");
    let unreadable = Unreadable::new(&world, "notes/3.txt");
    let out = backup_like_a_user(&world);
    world.after(&out, Expect::Partial);
    assert_eq!(out.json()["warnings"]["unreadable"], 1);
    let run = out.run_id().unwrap();
    assert!(world.run(&["show", &run]).expect(0).stdout.contains("notes/3.txt"));
    assert_eq!(world.metric("backup_last_warnings{kind=\"unreadable\"}"), 1.0);
    assert_eq!(world.mails_of("partial"), 1);
    drop(unreadable);
    world.recover();
}

#[test]
fn an_unreadable_file_is_a_warning_where_the_job_can_live_with_it() {
    let world = World::with(Setup { files: "unreadable = \"warn\"", ..Setup::default() });
    world.recover();
    world.exempt("notes/3.txt");
    let unreadable = Unreadable::new(&world, "notes/3.txt");
    let out = backup_like_a_user(&world);
    world.after(&out, Expect::Warning);
    assert_eq!(out.json()["warnings"]["unreadable"], 1);
    drop(unreadable);
    world.recover();
}

#[test]
fn files_that_change_while_they_are_read_are_warnings_in_a_valid_archive() {
    let world = World::new();
    world.recover();
    world.exempt("busy/");
    let busy = world.path("src/busy");
    fs::create_dir(&busy).unwrap();
    let big = busy.join("big");
    let stop = AtomicBool::new(false);
    let (mut warned, mut runs) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0usize;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                // Grown, shrunk, replaced, vanished and back.
                fs::write(&big, vec![turn as u8; (turn % 5 + 1) * 400_000]).unwrap();
                for i in 0..40 {
                    let path = busy.join(format!("file-{i}"));
                    match (turn + i) % 3 {
                        0 => fs::write(&path, vec![turn as u8; 1 + (turn * 997) % 9000]).unwrap(),
                        1 => {
                            let new = busy.join(format!("new-{i}"));
                            fs::write(&new, vec![turn as u8; 3000]).unwrap();
                            fs::rename(&new, &path).unwrap();
                        }
                        _ => drop(fs::remove_file(&path)),
                    }
                }
            }
        });
        let begun = Instant::now();
        while runs < 3 || (warned == 0 && begun.elapsed() < Duration::from_secs(90)) {
            runs += 1;
            let out = world.backup();
            let outcome = out.json()["outcome"].as_str().unwrap().to_owned();
            world.after(&out, if outcome == "warning" { Expect::Warning } else { Expect::Success });
            world.run(&["verify", "latest", "--deep"]).expect(0);
            warned += out.json()["warnings"]["changed"].as_u64().unwrap();
            warned += out.json()["warnings"]["vanished"].as_u64().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(warned > 0, "no file changed while it was read in {runs} runs");
    fs::remove_dir_all(busy).unwrap();
    world.recover();
}

#[test]
fn a_missing_source_fails_the_run() {
    let world = World::new();
    world.recover();
    let (there, away) = (world.path("src"), world.path("away"));
    fs::rename(&there, &away).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains(there.to_str().unwrap()), "{}", out.all());
    fs::rename(&away, &there).unwrap();
    world.recover();
}

#[test]
fn an_empty_source_fails_the_run_unless_the_job_allows_it() {
    let world = World::new();
    world.recover();
    let (there, away) = (world.path("src"), world.path("away"));
    fs::rename(&there, &away).unwrap();
    fs::create_dir(&there).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("is it mounted"), "{}", out.all());
    fs::remove_dir(&there).unwrap();
    fs::rename(&away, &there).unwrap();
    world.recover();

    let world = World::with(Setup { files: "allow_empty = true", ..Setup::default() });
    fs::remove_dir_all(world.path("src")).unwrap();
    fs::create_dir(world.path("src")).unwrap();
    let out = world.backup().expect(0);
    assert_eq!(out.json()["outcome"], "success");
}

#[test]
fn a_source_that_shrank_fails_or_warns_as_configured_until_it_is_acknowledged() {
    for (on_shrink, expect) in [("fail", Expect::Failure), ("warn", Expect::Success)] {
        let more = format!("[job.web.health]\non_shrink = \"{on_shrink}\"\n");
        let world = World::with(Setup { more, ..Setup::default() });
        world.exempt("bulk/");
        for i in 0..40 {
            world.write(&format!("src/bulk/{i}"), vec![i; 100_000]);
        }
        for _ in 0..3 {
            world.recover();
        }
        fs::remove_dir_all(world.path("src/bulk")).unwrap();
        let out = world.backup();
        world.after(&out, expect);
        assert!(out.all().contains("shrank"), "{}", out.all());
        if expect == Expect::Failure {
            assert!(out.all().contains("agent ack"), "{}", out.all());
            let again = world.backup();
            world.after(&again, Expect::Failure);
        }
        world.run(&["ack", "web"]).expect(0);
        let out = world.backup();
        world.after(&out, Expect::Success);
        assert!(!out.all().contains("shrank"), "{}", out.all());
        world.recover();
    }
}

#[test]
fn fifos_sockets_and_devices_are_skipped_and_listed_and_nothing_hangs() {
    let world = World::new();
    world.recover();
    let src = world.path("src");
    let path = |name: &str| src.join(name).display().to_string();
    system("mkfifo", &[&path("fifo")]);
    let _socket = UnixListener::bind(src.join("socket")).unwrap();
    let mut special = vec!["fifo", "socket"];
    if is_root() {
        system("mknod", &[&path("device"), "c", "1", "3"]);
        special.push("device");
    }
    let begun = Instant::now();
    let out = world.backup();
    world.after(&out, Expect::Success);
    assert!(begun.elapsed() < Duration::from_secs(120));
    assert_eq!(out.json()["warnings"]["skipped"], special.len());
    let shown = world.run(&["show", "latest"]).expect(0).stdout;
    for name in special {
        assert!(shown.contains(&format!("/{name}")), "{name} is not listed:\n{shown}");
        fs::remove_file(src.join(name)).unwrap();
    }
    world.recover();
}

const DUMP: &str = r#"
[job.web.source.database]
type = "command"
command = ["sh", "{root}/dump.sh"]
end_marker = "-- completed"
timeout = "10m"
"#;
const GOOD_DUMP: &str = "echo 'CREATE TABLE t (a int);'; echo '-- completed'";

#[test]
fn a_dump_that_fails_lies_or_hangs_fails_the_run() {
    let world = World::with(Setup { more: DUMP.to_owned(), ..Setup::default() });
    world.write("dump.sh", GOOD_DUMP);
    world.recover();
    let mark = format!("100{}", std::process::id());
    let hang = format!("{GOOD_DUMP}; sleep {mark} & sleep {mark}");
    let cases = [
        ("echo 'CREATE TABLE'; echo 'no such database' >&2; exit 3", "no such database"),
        (&format!("{GOOD_DUMP}; exit 1"), "exit code 1"),
        ("echo 'CREATE TABLE t (a int);'; exit 0", "cut off"),
        ("exit 0", "wrote nothing"),
        (&format!("{GOOD_DUMP}; kill -9 $$"), "signal"),
        (&hang, "had not finished"),
        ("sh -c 'head -c 3000000 /dev/urandom'; kill -9 $$", "signal"),
    ];
    for (script, error) in cases {
        world.write("dump.sh", script);
        let hangs = script == hang;
        if hangs {
            world.edit_config("timeout = \"10m\"", "timeout = \"3s\"");
        }
        let out = world.backup();
        if hangs {
            world.edit_config("timeout = \"3s\"", "timeout = \"10m\"");
        }
        world.after(&out, Expect::Failure);
        let answer = out.json();
        let text = answer["error"].as_str().unwrap();
        assert!(text.contains(error) && text.contains("database"), "{script}: {text}");
        assert!(world.leftovers().is_empty(), "{script}: {:?}", world.leftovers());
        world.write("dump.sh", GOOD_DUMP);
        world.recover();
    }
    let alive = Command::new("pgrep").args(["-f", &format!("^sleep {mark}$")]).output().unwrap();
    assert!(alive.stdout.is_empty(), "what the dump had started outlives it");
}

const SQLITE: &str = r#"
[job.web.source.queue]
type = "sqlite"
path = "{root}/queue.sqlite"
timeout = "10m"
"#;

#[test]
fn a_busy_sqlite_database_is_copied_and_a_locked_or_damaged_one_fails_the_run() {
    let world = World::with(Setup { more: SQLITE.to_owned(), ..Setup::default() });
    let database = world.path("queue.sqlite").display().to_string();
    let fill = "PRAGMA journal_mode=WAL; CREATE TABLE t (a); \
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000) \
                INSERT INTO t SELECT hex(randomblob(20)) FROM n;";
    system("sqlite3", &[&database, fill]);
    world.recover();

    // A writer in the middle of its transaction: what was committed before is copied.
    let holder = Holder::start(&world, "BEGIN IMMEDIATE; DELETE FROM t;");
    let out = world.backup();
    world.after(&out, Expect::Success);
    let stored = world.newest("local").join("queue.sqlite.zst").display().to_string();
    let copy = world.path("copy.sqlite").display().to_string();
    system("zstd", &["-qdf", &stored, "-o", &copy]);
    assert_eq!(system("sqlite3", &[&copy, "SELECT count(*) FROM t; PRAGMA integrity_check"]), "5000\nok\n");
    drop(holder);

    // One that lets nobody read, without a write-ahead log.
    system("sqlite3", &[&database, "PRAGMA journal_mode=DELETE"]);
    let holder = Holder::start(&world, "BEGIN EXCLUSIVE;");
    world.edit_config("timeout = \"10m\"", "timeout = \"1s\"");
    let out = world.backup();
    world.edit_config("timeout = \"1s\"", "timeout = \"10m\"");
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("locked by a writer"), "{}", out.all());
    drop(holder);
    world.recover();

    let good = fs::read(&database).unwrap();
    let mut bad = good.clone();
    bad[20_000..60_000].fill(0xa5);
    fs::write(&database, bad).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("damaged"), "{}", out.all());
    fs::write(&database, &good[..30_000]).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    fs::write(&database, good).unwrap();
    world.recover();
}

/// Another process with a transaction open in the SQLite database.
struct Holder(std::process::Child);

impl Holder {
    fn start(world: &World, sql: &str) -> Self {
        const SCRIPT: &str = "import sqlite3,sys,time\n\
            c=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
            [c.execute(s) for s in sys.argv[2].split(';') if s.strip()]\n\
            open(sys.argv[3],'w').close()\n\
            time.sleep(1000)\n";
        let ready = world.path("holding");
        let _ = fs::remove_file(&ready);
        let child = Command::new("python3")
            .args(["-c", SCRIPT])
            .args([&world.path("queue.sqlite").display().to_string(), sql])
            .arg(&ready)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let holder = Self(child);
        wait_for("the writer's lock", || ready.exists());
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
