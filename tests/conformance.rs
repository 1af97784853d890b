//! One suite for every source that gets its data from a program: what a good dump, a failing, a lying, a
//! hanging and a talkative program come to, and that passwords are seen nowhere.
//!
//! Success is with real servers (MariaDB, PostgreSQL, Redis), started here; faults are programs on PATH in the
//! place of the real ones, which know the good dump and spoil it. Sources without a program stand in the same
//! table with the faults they can have.
#![cfg(feature = "real-peers")]

mod peers;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peers::mariadb::MariaDb;
use peers::postgres::{Postgres, bin};
use peers::redis::Redis;
use world::invariants::Expect;
use world::{Out, Setup, World, output, system, wait_for};

/// Must be seen nowhere.
const CANARY: &str = "canary-7f3a-passw0rd";

/// A source and the program that stands in for its dump program.
struct Case {
    name: &'static str,
    /// Its lines in the configuration. `{stubs}` is the folder of the programs.
    lines: &'static str,
    /// The component whose dump the program spoils, in the backup of the real servers.
    dump: &'static str,
    /// The program, and what else it answers before it dumps, as a part of a shell script.
    programs: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        name: "mysql",
        lines: "type = 'mysql'\nuser = 'backup'\npassword_file = '{secret}'\ndatabases = ['shop']\ntimeout = '2s'",
        dump: "mysql.sql.zst",
        programs: &[
            ("mariadb", r#"printf 'version\t10.11.19-MariaDB\ncase\t0\ndatabase\tshop\n'; exit 0"#),
            (
                "mariadb-dump",
                r#"[ "$1" = --version ] && { echo "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB"; exit 0; }
                   cat "${1#--defaults-file=}" >&2"#,
            ),
        ],
    },
    Case {
        name: "postgres",
        lines: "type = 'postgres'\nbin_dir = '{stubs}'\nhost = '127.0.0.1'\nuser = 'backup'\npassword_file = '{secret}'\ndatabases = ['shop']\nglobals = false\ntimeout = '2s'",
        dump: "postgres.shop.pgdump.zst",
        programs: &[
            (
                "psql",
                r#"[ "$1" = --version ] && { echo "psql (PostgreSQL) 15.1"; exit 0; }
                   printf 'version:15.1\0database:shop\0'; exit 0"#,
            ),
            ("pg_dumpall", r#"echo "pg_dumpall (PostgreSQL) 15.1"; exit 0"#),
            (
                "pg_dump",
                r#"[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 15.1"; exit 0; }
                   cat "$PGPASSFILE" >&2"#,
            ),
        ],
    },
    Case {
        name: "globals",
        lines: "type = 'postgres'\nbin_dir = '{stubs}'\nhost = '127.0.0.1'\nuser = 'backup'\npassword_file = '{secret}'\ndatabases = ['none*']\nallow_empty = true\ntimeout = '2s'",
        dump: "postgres.globals.sql.zst",
        programs: &[
            ("psql", r#"printf 'version:15.1\0database:shop\0'; exit 0"#),
            ("pg_dump", r#"echo "pg_dump (PostgreSQL) 15.1"; exit 0"#),
            (
                "pg_dumpall",
                r#"[ "$1" = --version ] && { echo "pg_dumpall (PostgreSQL) 15.1"; exit 0; }
                   cat "$PGPASSFILE" >&2"#,
            ),
        ],
    },
    Case {
        name: "redis",
        lines: "type = 'redis'\nprogram = '{stubs}/redis-cli'\npassword_file = '{secret}'\ntimeout = '2s'",
        dump: "redis.rdb.zst",
        programs: &[(
            "redis-cli",
            r#"case "$*" in *INFO) printf 'redis_version:7.0.15\r\nrole:master\r\nloading:0\r\n'; exit 0;; esac
               echo "$REDISCLI_AUTH" >&2"#,
        )],
    },
    Case {
        name: "marked",
        lines: "type = 'command'\ncommand = ['dump']\nextension = 'ldif'\nend_marker = '# end'\nenv_file = { TOKEN = '{secret}' }\ntimeout = '2s'",
        dump: "command.ldif.zst",
        programs: &[("dump", r#"echo "$TOKEN" >&2"#)],
    },
    Case {
        name: "checked",
        lines: "type = 'command'\ncommand = ['dump']\nextension = 'ldif'\ncheck = ['grep', '-q', '^# end$']\nenv_file = { TOKEN = '{secret}' }\ntimeout = '2s'",
        dump: "command.ldif.zst",
        programs: &[("dump", r#"echo "$TOKEN" >&2"#)],
    },
];

/// What the program does with a good dump, as a part of a shell script; the exit code of the run; what its
/// error says.
struct Fault {
    name: &'static str,
    script: &'static str,
    expect: Expect,
    says: &'static [&'static str],
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "exits with another code than 0",
        script: "cat $good; exit 3",
        expect: Expect::Failure,
        says: &["exit code 3"],
    },
    Fault {
        name: "is killed by a signal",
        script: "cat $half; kill -KILL $$",
        expect: Expect::Failure,
        says: &["SIGKILL"],
    },
    Fault {
        name: "ends well with half a dump",
        script: "cat $half",
        expect: Expect::Failure,
        says: &["cut off", "not whole"],
    },
    Fault {
        name: "ends well with all but the last line",
        script: "head -c -60 $good",
        expect: Expect::Failure,
        says: &["cut off", "not whole"],
    },
    Fault {
        name: "hangs, and so does its child",
        script: "cat $half; sleep 600 & echo $! >$pids; echo $$ >>$pids; wait",
        expect: Expect::Failure,
        says: &["had not finished after 2s"],
    },
    Fault {
        name: "writes nothing and ends well",
        script: ":",
        expect: Expect::Failure,
        says: &["wrote nothing"],
    },
    Fault {
        name: "fills standard error and ends well",
        script: "yes 'warning: this table is odd' | head -c 20000000 >&2; cat $good",
        expect: Expect::Success,
        says: &[],
    },
];

struct Servers {
    mariadb: MariaDb,
    postgres: Postgres,
    redis: Redis,
}

fn servers() -> Servers {
    let (mariadb, postgres, redis) = std::thread::scope(|scope| {
        let mariadb = scope.spawn(MariaDb::start);
        let postgres = scope.spawn(Postgres::start);
        let redis = scope.spawn(|| {
            Redis::start(None, Some(CANARY), &["repl-diskless-sync-delay 0", "enable-debug-command local"])
        });
        (mariadb.join().unwrap(), postgres.join().unwrap(), redis.join().unwrap())
    });
    mariadb.load(
        format!(
            "CREATE DATABASE shop; USE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v TEXT); INSERT INTO shop.t SELECT seq, SHA2(seq, 256) FROM seq_1_to_3000;
             CREATE DATABASE wiki; CREATE TABLE wiki.t (id INT); CREATE DATABASE shop_old;
             CREATE USER backup@localhost IDENTIFIED BY '{CANARY}'; GRANT ALL ON *.* TO backup@localhost;"
        )
        .as_bytes(),
    );
    postgres.load("postgres", format!("CREATE ROLE backup SUPERUSER LOGIN PASSWORD '{CANARY}'; CREATE DATABASE shop; CREATE DATABASE wiki").as_bytes());
    postgres.load("shop", b"CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 3000) n; CREATE TABLE u AS SELECT 1 AS n");
    redis.query(&["DEBUG", "POPULATE", "1000", "key", "100"]);
    Servers { mariadb, postgres, redis }
}

/// Looks for the canary in the arguments of every process, and in the environments of those that should not
/// have it there, until told to stop. Gives how many processes it saw that dump something.
fn watch_processes(stop: &AtomicBool) -> usize {
    let mut dumps = 0;
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&read("cmdline")).into_owned();
            assert!(!arguments.contains(CANARY), "in a process list: {arguments}");
            let dump = ["mariadb-dump", "pg_dump", "pg_restore"].iter().any(|name| arguments.contains(name));
            if dump {
                dumps += 1;
                assert!(
                    !String::from_utf8_lossy(&read("environ")).contains(CANARY),
                    "in an environment: {arguments}"
                );
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    dumps
}

/// Looks for the canary in everything a run said and left behind, but for the dumps themselves: a dump of
/// accounts holds digests of passwords, and no password.
#[track_caller]
fn nowhere(world: &World, out: &Out) {
    let show = world.run(&["show", out.run_id().as_deref().unwrap_or("latest"), "--log"]);
    let mut texts =
        vec![out.all(), show.all(), world.run(&["metrics"]).all(), world.run(&["config", "show"]).all()];
    texts.extend(world.mails());
    for text in texts {
        assert!(!text.contains(CANARY), "a password is shown: {text}");
    }
    let mut folders = vec![world.path("state"), world.path("local")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
                assert!(!found, "{} holds a password", path.display());
            }
        }
    }
}

/// A backup of all kinds of sources with real servers, and its dumps, decompressed, by file name.
fn real_backup() -> (World, tempfile::TempDir) {
    let servers = servers();
    let more = format!(
        r##"
[job.web.source.mysql]
type = "mysql"
socket = "{mysql}"
user = "backup"
password_file = "{{root}}/secret"
databases = ["shop"]
users = true
[job.web.source.each]
type = "mysql"
socket = "{mysql}"
user = "backup"
password_file = "{{root}}/secret"
split = true
exclude_databases = ["*_old"]
parallel = 3
[job.web.source.postgres]
type = "postgres"
bin_dir = "{bin}"
host = "127.0.0.1"
port = {pg}
user = "backup"
password_file = "{{root}}/secret"
[job.web.source.redis]
type = "redis"
port = {redis}
password_file = "{{root}}/secret"
[job.web.source.sqlite]
type = "sqlite"
path = "{{root}}/queue.sqlite"
[job.web.source.command]
type = "command"
command = ["cat", "{{root}}/ldif"]
extension = "ldif"
end_marker = "# end"
check = ["grep", "-q", "^# end$"]
"##,
        mysql = servers.mariadb.socket().display(),
        bin = bin().display(),
        pg = servers.postgres.port,
        redis = servers.redis.port,
    );
    let world = World::with(Setup { more, ..Setup::default() });
    world.write("secret", CANARY);
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    world.write("ldif", format!("{}# end\n", "dn: cn=x\n".repeat(20_000)));
    system(
        "sqlite3",
        &[world.path("queue.sqlite").to_str().unwrap(), "CREATE TABLE t (n); INSERT INTO t VALUES (7)"],
    );
    let stop = AtomicBool::new(false);
    let out = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_processes(&stop));
        let out = world.backup();
        stop.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0, "no dump was running while the process list was read");
        out
    });
    world.after(&out, Expect::Success);
    nowhere(&world, &out);
    let dumps = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(world.newest("local")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".zst") {
            fs::write(dumps.path().join(&name), system_bytes("zstd", &["-dc", path.to_str().unwrap()]))
                .unwrap();
        }
    }
    restores_by_its_own_text(&world, &servers);
    a_dropped_database_is_told(&world, &servers);
    (world, dumps)
}

fn system_bytes(program: &str, args: &[&str]) -> Vec<u8> {
    let out = std::process::Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Runs the commands that `RESTORE.txt` gives for each database, with the login of fresh servers added.
fn restores_by_its_own_text(world: &World, servers: &Servers) {
    let folder = world.newest("local");
    let text = fs::read_to_string(folder.join("RESTORE.txt")).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let of =
        |name: &str| manifest["components"].as_array().unwrap().iter().find(|c| c["name"] == name).cloned();
    assert_eq!(of("each.shop").unwrap()["databases"], serde_json::json!(["shop"]));
    assert_eq!(of("each.shop").unwrap()["content"], "mysql");
    assert!(of("each.shop_old").is_none());

    let (mysql, pg) = (MariaDb::start(), Postgres::start());
    // The very lines, each found in the text.
    for line in [
        "zstd -dc mysql.sql.zst | mysql",
        "zstd -dc mysql.users-and-grants.sql.zst | mysql",
        "zstd -dc each.wiki.sql.zst | mysql",
        "zstd -dc postgres.globals.sql.zst | psql -X -d postgres",
        "zstd -dc postgres.shop.pgdump.zst | pg_restore --create --exit-on-error -d postgres",
        "createdb -T template0 shop_restored",
        "zstd -dc postgres.shop.pgdump.zst | pg_restore --no-owner --exit-on-error -d shop_restored",
    ] {
        assert!(text.lines().any(|l| l.trim() == line), "RESTORE.txt has no line {line:?}:\n{text}");
        let mut shell = std::process::Command::new("bash");
        shell
            .args(["-o", "pipefail", "-c"])
            .current_dir(&folder)
            .env("MYSQL_HOME", mysql.socket().parent().unwrap());
        shell.arg(line.replace(
            "| mysql",
            &format!("| mysql --no-defaults --socket={} --user=root", mysql.socket().display()),
        ));
        let path = format!("{}:{}", bin().display(), std::env::var("PATH").unwrap());
        shell.env("PATH", path).env("PGHOST", "127.0.0.1").env("PGPORT", pg.port.to_string());
        if line.contains("p") && !line.contains("mysql") {
            // The folder of the backup is root's alone, so the programs log in over the network.
            pg.load("postgres", b"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drill') THEN CREATE ROLE drill SUPERUSER LOGIN PASSWORD 'x'; END IF; END $$");
            shell.env("PGUSER", "drill").env("PGPASSWORD", "x");
        }
        let out = output(shell);
        assert_eq!(out.code, 0, "{line}: {}", out.all());
    }
    let rows = "SELECT COUNT(*), MD5(GROUP_CONCAT(v ORDER BY id)) FROM shop.t";
    assert_eq!(mysql.query(rows), servers.mariadb.query(rows));
    assert!(mysql.query("SHOW GRANTS FOR backup@localhost").contains("ALL PRIVILEGES"));
    for database in ["shop", "shop_restored"] {
        let rows = "SELECT count(*), md5(string_agg(md5, ',' ORDER BY n)) FROM t";
        assert_eq!(pg.query(database, rows), servers.postgres.query("shop", rows));
    }
    // As a server reads it when it starts.
    let rdb = world.path("dump.rdb");
    assert!(text.contains("zstd -dc redis.rdb.zst > /var/lib/redis/dump.rdb"), "{text}");
    fs::write(&rdb, system_bytes("zstd", &["-dc", folder.join("redis.rdb.zst").to_str().unwrap()])).unwrap();
    let redis = Redis::start(Some(&rdb), None, &["enable-debug-command local"]);
    assert_eq!(redis.query(&["DEBUG", "DIGEST"]), servers.redis.query(&["DEBUG", "DIGEST"]));
}

/// A database that a pattern matched in the last good run and that is gone is told, until somebody says that
/// it is right.
fn a_dropped_database_is_told(world: &World, servers: &Servers) {
    servers.mariadb.query("DROP DATABASE wiki");
    let out = world.backup();
    world.after(&out, Expect::Success);
    assert!(out.all().contains("each.wiki: it was in the last good backups"), "{}", out.all());
    assert!(
        world.run(&["check"]).all().contains("each.wiki shrank: missing"),
        "{}",
        world.run(&["check"]).all()
    );
    world.run(&["ack", "web"]).expect(0);
    let out = world.backup();
    assert!(!out.all().contains("each.wiki"), "{}", out.all());
    world.edit_config(
        "[job.web.source.mysql]",
        "[job.web.health]\non_shrink = \"fail\"\n[job.web.source.mysql]",
    );
    servers.postgres.query("postgres", "DROP DATABASE wiki");
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("component postgres"), "{}", out.all());
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A world with one source of a case beside the files, and its folder of programs.
fn world_of(case: &Case, dumps: &Path) -> (World, PathBuf) {
    let more = format!("[job.web.source.{}]\n{}\n", case.name, case.lines)
        .replace("{stubs}", "{root}/stubs")
        .replace("{secret}", "{root}/secret");
    let world = World::with(Setup { more, ..Setup::default() });
    world.write("secret", CANARY);
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let stubs = world.path("stubs");
    fs::create_dir(&stubs).unwrap();
    std::os::unix::fs::symlink(bin().join("pg_restore"), stubs.join("pg_restore")).unwrap();
    let good = fs::read(dumps.join(case.dump)).unwrap();
    world.write("good", &good);
    world.write("half", &good[..good.len() / 2]);
    (world, stubs)
}

fn set_fault(world: &World, stubs: &Path, case: &Case, fault: &Fault) {
    let (last, others) = case.programs.split_last().unwrap();
    for (name, text) in others {
        script(&stubs.join(name), text);
    }
    let root = world.root().display();
    let (name, answers) = last;
    let text = format!("good={root}/good half={root}/half pids={root}/pids\n{answers}\n{}", fault.script);
    script(&stubs.join(name), &text);
}

fn backup_with(world: &World, stubs: &Path) -> Out {
    let mut command = world.agent(&["backup", "web", "--json"]);
    command.env("PATH", format!("{}:{}", stubs.display(), std::env::var("PATH").unwrap()));
    output(command)
}

#[test]
fn every_source_passes_good_dumps_and_no_others_and_shows_its_password_nowhere() {
    let (_, dumps) = real_backup();
    std::thread::scope(|scope| {
        for case in CASES {
            let dumps = dumps.path();
            scope.spawn(move || conforms(case, dumps));
        }
    });
}

fn conforms(case: &Case, dumps: &Path) {
    let (world, stubs) = world_of(case, dumps);
    for fault in FAULTS {
        let what = format!("{}: a program that {}", case.name, fault.name);
        set_fault(&world, &stubs, case, fault);
        let begun = Instant::now();
        let out = backup_with(&world, &stubs);
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} held up the run");
        world.after(&out, fault.expect);
        let said = out.all();
        let told = fault.says.is_empty() || fault.says.iter().any(|text| said.contains(text));
        // A dump cut in the middle of its first bytes is told as what it looks like.
        assert!(told, "{what}: {said}");
        if fault.expect == Expect::Failure {
            assert!(said.contains(&format!("component {}", case.name)), "{what}: {said}");
            assert!(world.leftovers().is_empty(), "{what}: {:?}", world.leftovers());
        }
        nowhere(&world, &out);
        if let Ok(pids) = fs::read_to_string(world.path("pids")) {
            for pid in pids.lines() {
                let gone = || {
                    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
                };
                wait_for("the end of the process group", gone);
            }
            fs::remove_file(world.path("pids")).unwrap();
        }
    }
}

#[test]
fn sources_without_a_program_pass_good_data_and_no_other() {
    let more = "[job.web.source.queue]\ntype = 'sqlite'\npath = '{root}/queue.sqlite'\ntimeout = '1s'\n";
    let world = World::with(Setup { more: more.to_owned(), ..Setup::default() });
    let path = world.path("queue.sqlite");
    system(
        "sqlite3",
        &[
            path.to_str().unwrap(),
            "CREATE TABLE t (n); INSERT INTO t SELECT value FROM generate_series(1, 9000)",
        ],
    );
    let good = fs::read(&path).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Success);
    for (what, bytes, says) in [
        ("cut off", good[..good.len() / 2].to_vec(), "damaged"),
        ("empty", Vec::new(), "empty file"),
        (
            "something else",
            b"not a database, but long enough to be one".repeat(20),
            "is not an SQLite database",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let out = world.backup();
        world.after(&out, Expect::Failure);
        assert!(out.all().contains(says), "{what}: {}", out.all());
    }
    fs::write(&path, good).unwrap();
    world.recover();
}
