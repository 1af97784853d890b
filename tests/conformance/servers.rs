//! A good backup of real servers, and its way back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::passwords::{CANARY, nowhere, watch_processes};
use crate::peers::mariadb::MariaDb;
use crate::peers::postgres::{Postgres, bin};
use crate::peers::redis::Redis;
use crate::world::invariants::Expect;
use crate::world::{Setup, World, output, system};

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

/// A backup of all kinds of sources with real servers, and its dumps, decompressed, by file name.
pub fn real_backup() -> (World, tempfile::TempDir) {
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
