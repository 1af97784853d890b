//! Drills of databases with the real binary: dumps loaded for trial into MariaDB and PostgreSQL servers of the
//! tests' own, asked, and dropped again.
//!
//! `cargo test --features real-peers --test drills_databases`
#![cfg(feature = "real-peers")]

#[path = "cli/world.rs"]
mod world;

mod peers;

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use peers::mariadb::MariaDb;
use peers::postgres::{Postgres, USER, bin};
use serde_json::Value;
use world::{Guard, ONE_JOB, World, until};

const SHOP: &[u8] = b"CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
    CREATE TABLE orders (id INT PRIMARY KEY, note TEXT);
    INSERT INTO orders VALUES (1, 'one'), (2, NULL), (3, 'USE `live`;');
    CREATE TABLE log (id INT PRIMARY KEY AUTO_INCREMENT, at TIMESTAMP);
    CREATE VIEW big AS SELECT id FROM orders WHERE id > 1;
    CREATE FUNCTION gross(net INT) RETURNS INT DETERMINISTIC RETURN net * 2;
    CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW SET NEW.note = 'new';
    CREATE EVENT often ON SCHEDULE EVERY 1 SECOND DO INSERT INTO live.touched VALUES (1);
    CREATE DATABASE other; CREATE TABLE other.t (id INT); INSERT INTO other.t VALUES (7);
    CREATE DATABASE live; CREATE TABLE live.touched (id INT);
    CREATE USER backup@localhost IDENTIFIED BY 'x';
    GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.* TO backup@localhost;";
const GRANT: &str = "GRANT ALL PRIVILEGES ON `backup\\_drill\\_%`.* TO backup@localhost";

const DRILL: &str = r#"
[job.web.drill]
[job.web.drill.check.orders]
type = "sql"
source = "database"
database = "shop"
query = "SELECT id, note FROM orders WHERE id < 3 ORDER BY id"
expect = "1\tone\n2\tNULL"
[job.web.drill.check.view]
type = "sql"
source = "database"
database = "shop"
query = "SELECT gross(COUNT(*)) FROM big"
at_least = 4
"#;

fn mysql_source(server: &MariaDb, more: &str) -> String {
    format!(
        "[job.web.source.database]\ntype = 'mysql'\nsocket = '{}'\nuser = 'backup'\npassword_file = '{{}}/password'\n{more}\n",
        server.socket().display()
    )
}

/// A server with data, and a backup of the databases `shop` and `other` in one dump.
fn mysql_world(server: &MariaDb, source: &str, drill: &str) -> World {
    server.load(SHOP);
    let world = World::empty();
    world.sh("mkdir local");
    world.write("password", "x\n");
    std::fs::set_permissions(world.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
    world.configure(&format!("{ONE_JOB}{}{drill}", mysql_source(server, source)));
    world.agent("backup").exits(0);
    world
}

/// A dump program that lets `script` have the dump first.
fn wrapped(world: &World, script: &str) {
    world.write(
        "dump",
        &format!("#!/bin/bash\n[[ $* == *--version* ]] && exec mariadb-dump --version\nset -o pipefail\nmariadb-dump \"$@\" | {script}\n"),
    );
    std::fs::set_permissions(world.path("dump"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

const WRAPPED: &str = "databases = ['shop', 'other']\nprogram = '{}/dump'\n";
const DATABASES: &str = "databases = ['shop', 'other']\n";

#[track_caller]
fn nothing_left(world: &World, server: &MariaDb) {
    assert_eq!(server.query("SHOW DATABASES LIKE 'backup\\_drill\\_%'"), "");
    assert_eq!(
        world.sh("ls -A state/drill 2>/dev/null || true; ls -d state/loading-* 2>/dev/null || true"),
        ""
    );
    let state = rusqlite::Connection::open(world.path("state/state.db")).unwrap();
    let known: i64 = state.query_row("SELECT count(*) FROM scratch_databases", [], |row| row.get(0)).unwrap();
    assert_eq!(known, 0, "the state still knows a scratch database");
}

/// What must be as before, whatever a drill does.
fn live(server: &MariaDb) -> String {
    server.query(
        "CHECKSUM TABLE shop.orders, shop.log, other.t; SHOW TABLES IN shop; SHOW TABLES IN live; SHOW DATABASES",
    )
}

fn drill(world: &World) -> Value {
    world.agent("drill --json").exits(0).json()[0].clone()
}

fn check(world: &World) -> String {
    let answer = world.agent("check --json").json();
    let found =
        answer["findings"].as_array().unwrap().iter().find(|f| f["check"] == "drill").unwrap().clone();
    format!("{} {}", found["status"].as_str().unwrap(), found["message"].as_str().unwrap())
}

/// A drill that is at a check that never ends.
fn hanging(world: &World) -> Child {
    let mut drill = world.program();
    drill.args(["--config", "config.toml", "drill"]).stdout(Stdio::null()).stderr(Stdio::null());
    let drill = drill.spawn().unwrap();
    until("the check runs", || world.path("hangs").exists());
    drill
}

const HANG: &str = "[job.web.drill.check.hang]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", \"touch {}/hangs; sleep 1000\"]\n";

#[test]
fn a_mariadb_dump_is_loaded_beside_the_live_databases_asked_and_dropped() {
    let server = MariaDb::start();
    let world = mysql_world(&server, DATABASES, DRILL);
    // The event that is live goes on; what is loaded must not begin to.
    server.query("ALTER EVENT shop.often DISABLE; DO SLEEP(1); DELETE FROM live.touched");
    // A stranger's database with a name alike.
    server.query("CREATE DATABASE backup_drill_web_shop; CREATE TABLE backup_drill_web_shop.t (id INT)");

    // Who reads may not write: the sentence says what is needed, and nothing is left.
    let before = live(&server);
    let refused = world
        .agent("drill")
        .exits(1)
        .says(&[
            "database shop: user backup may not make and fill a scratch database at ",
            "GRANT ALL PRIVILEGES ON `backup\\_drill\\_%`.*",
        ])
        .says(&["`drill.server`", "check orders: no database of database was loaded"]);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(!said.contains("left") && !said.contains("a dump needs"), "{said}");
    assert!(check(&world).starts_with("critical the drill "), "{}", check(&world));
    assert_eq!(live(&server), before);

    server.query(GRANT);
    let drill = drill(&world);
    assert_eq!(drill["ok"], true, "{drill}");
    assert_eq!((&drill["databases"], &drill["tables"], &drill["checks"]), (&2.into(), &3.into(), &2.into()));
    assert!(drill["restore_ms"].as_u64().unwrap() > 0, "{drill}");
    assert!(check(&world).starts_with("ok the backup came back in "), "{}", check(&world));
    assert!(check(&world).contains("2 databases loaded"), "{}", check(&world));
    world.agent("show latest").exits(0).says(&["2 databases with 3 tables loaded, 2 checks"]);
    assert_eq!(server.query("SELECT COUNT(*) FROM live.touched"), "0\n", "an event of the dump acted");
    assert_eq!(live(&server), before);
    assert_eq!(server.query("SHOW TABLES IN backup_drill_web_shop"), "t\n");
    server.query("DROP DATABASE backup_drill_web_shop");
    nothing_left(&world, &server);

    // A wrong answer fails the drill, and a query can change nothing.
    let source = mysql_source(&server, DATABASES);
    world.configure(&format!(
        "{ONE_JOB}{source}{}",
        DRILL.replace("1\\tone", "1\\ttwo").replace("at_least = 4", "at_least = 5")
    ));
    world.agent("drill").exits(1).says(&[
        "check orders: the answer is \"1\\tone\\n2\\tNULL\"",
        "check view: the answer is 4, less than 5",
    ]);
    world.configure(&format!(
        "{ONE_JOB}{source}{}",
        DRILL.replace("SELECT gross(COUNT(*)) FROM big", "DELETE FROM orders")
    ));
    world.agent("drill").exits(1).says(&["check view: ", "READ ONLY"]);
    world.configure(&format!("{ONE_JOB}{source}{}", DRILL.replace("database = \"shop\"\n", "")));
    world
        .agent("drill")
        .exits(1)
        .says(&["database has several databases, say which with `database`: other, shop"]);

    // Left out when that is wanted.
    world.configure(&format!("{ONE_JOB}{source}[job.web.drill]\ndatabases = false\n"));
    world.agent("drill").exits(0);
    world.configure(&format!(
        "{ONE_JOB}{source}{}",
        DRILL.replace("[job.web.drill]\n", "[job.web.drill]\ndatabases = false\n")
    ));
    world.agent("config check").exits(2).says(&["with `databases = false` database is not loaded"]);
    nothing_left(&world, &server);
    assert_eq!(live(&server), before.replace("backup_drill_web_shop\n", ""));
}

#[test]
fn a_drill_loads_into_another_server_where_one_is_named() {
    let (server, scratch) = (MariaDb::start(), MariaDb::start());
    let more = format!(
        "{DRILL}[job.web.drill.server.database]\nsocket = '{}'\nuser = 'root'\n",
        scratch.socket().display()
    );
    let world = mysql_world(&server, &format!("{DATABASES}split = true\nusers = false\n"), &more);
    let drill = drill(&world);
    assert_eq!((&drill["ok"], &drill["databases"]), (&true.into(), &2.into()), "{drill}");
    nothing_left(&world, &scratch);
    drop(scratch);
    world.agent("drill").exits(1).says(&["no database server answers at "]);
}

#[test]
fn a_mariadb_dump_that_does_not_load_or_would_leave_its_database_fails_the_drill() {
    let server = MariaDb::start();
    server.load(b"CREATE DATABASE IF NOT EXISTS warmup");
    let world = World::empty();
    world.sh("mkdir local");
    world.write("password", "x\n");
    std::fs::set_permissions(world.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
    server.load(SHOP);
    server.query(GRANT);
    server.query("ALTER EVENT shop.often DISABLE; DO SLEEP(1); DELETE FROM live.touched");
    let before = live(&server);
    let backup = |script: &str| {
        wrapped(&world, script);
        world.configure(&format!("{ONE_JOB}{}[job.web.drill]\n", mysql_source(&server, WRAPPED)));
        // As long as no good drill followed a failed one, backups are degraded.
        let code = world.agent("backup").code;
        assert!(code == 0 || code == 4, "{code}");
    };

    backup("sed 's/^CREATE TABLE `orders`/CREATE TABEL `orders`/'");
    world.agent("drill").exits(1).says(&["component database: database shop: ", "ERROR 1064"]);
    // What the client echoes is people's data.
    backup("sed 's/^INSERT INTO `orders` VALUES/INSERT INTO `nowhere` VALUES/'");
    let failed = world.agent("drill").exits(1).says(&["ERROR 1100"]);
    assert!(!failed.out.contains("'one'"), "{}", failed.out);
    assert_eq!(live(&server), before);
    nothing_left(&world, &server);

    // Neither a turn to the live database nor an order to the server itself is followed.
    backup("sed 's/^INSERT INTO `orders`.*/USE `live`;\\nDROP TABLE `touched`;/'");
    world.agent("drill").exits(1).says(&["the dump names another database than `shop`"]);
    assert_eq!(live(&server), before);
    nothing_left(&world, &server);
    backup("sed '1a CHANGE MASTER TO MASTER_HOST=\"nowhere\";\\nDROP DATABASE `live`;'");
    assert_eq!(drill(&world)["databases"], 2);
    assert_eq!(server.query("SHOW SLAVE STATUS"), "");
    assert_eq!(live(&server), before);

    // A table that is lost on the way: the client is content, the count is not.
    backup("sed 's/^CREATE TABLE `log`.*/&  gone int); DROP TABLE `log`; CREATE TEMPORARY TABLE `log` (/'");
    world.agent("drill").exits(1).says(&["1 tables are there after loading, 2 are in the dump"]);
    nothing_left(&world, &server);

    // One that takes too long is ended with what it does at the server.
    backup("sed 's/^INSERT INTO `orders`/SELECT SLEEP(100);\\n&/'");
    // The dump had its time; loading it has not.
    let source = mysql_source(&server, WRAPPED);
    world.configure(&format!("{ONE_JOB}{source}timeout = '4s'\n[job.web.drill]\n"));
    world.agent("drill").exits(1).says(&["had not finished after 4s"]);
    assert_eq!(server.query("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '%SLEEP(100)%' AND ID <> CONNECTION_ID()"), "0\n");
    nothing_left(&world, &server);
    assert_eq!(live(&server), before);
}

#[test]
fn what_a_killed_drill_left_at_a_server_is_dropped_and_a_stopped_one_leaves_nothing() {
    let server = MariaDb::start();
    let world = mysql_world(&server, DATABASES, &format!("{DRILL}{HANG}"));
    server.query(GRANT);
    let mut stopped = hanging(&world);
    assert_eq!(server.query("SHOW DATABASES LIKE 'backup\\_drill\\_%'").lines().count(), 2);
    world.sh(&format!("kill -TERM {}", stopped.id()));
    assert_ne!(stopped.wait().unwrap().code(), Some(0));
    nothing_left(&world, &server);

    world.sh("rm hangs");
    let killed = Guard(hanging(&world));
    drop(killed); // SIGKILL
    assert_eq!(server.query("SHOW DATABASES LIKE 'backup\\_drill\\_%'").lines().count(), 2);
    server.query("CREATE DATABASE backup_drill_web_of_mine");
    world.agent("tend").says(&["1 drill had died"]);
    assert_eq!(server.query("SHOW DATABASES LIKE 'backup\\_drill\\_%'"), "backup_drill_web_of_mine\n");
    server.query("DROP DATABASE backup_drill_web_of_mine");
    nothing_left(&world, &server);
    assert!(check(&world).contains("was cut short"), "{}", check(&world));
}

fn postgres_world(server: &Postgres, login: &str, drill: &str) -> World {
    server.query("postgres", "CREATE ROLE app");
    server.query("postgres", "CREATE DATABASE shop");
    server.load(
        "shop",
        b"CREATE EXTENSION pg_trgm; CREATE SCHEMA more;
          CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'one'), (2, NULL);
          CREATE TABLE more.parts (id int, at date) PARTITION BY RANGE (at);
          CREATE TABLE more.parts_2026 PARTITION OF more.parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
          CREATE MATERIALIZED VIEW big AS SELECT id FROM orders WHERE id > 1;
          ALTER TABLE orders OWNER TO app; GRANT SELECT ON orders TO PUBLIC;
          CREATE PUBLICATION p FOR TABLE orders;",
    );
    let world = World::empty();
    world.sh("mkdir local");
    world.write("password", "x\n");
    std::fs::set_permissions(world.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
    world.configure(&format!("{ONE_JOB}{}{drill}", postgres_source(server, login)));
    world.agent("backup").exits(0);
    world
}

fn postgres_source(server: &Postgres, login: &str) -> String {
    format!(
        "[job.web.source.database]\ntype = 'postgres'\nport = {}\nbin_dir = '{}'\ndatabases = ['shop']\n{login}\n",
        server.port,
        bin().display()
    )
}

fn as_superuser(server: &Postgres) -> String {
    format!("socket = '{}'\nrun_as = '{USER}'", server.socket().display())
}

const POSTGRES_DRILL: &str = r#"
[job.web.drill]
[job.web.drill.check.orders]
type = "sql"
source = "database"
query = "SELECT id, note FROM orders ORDER BY id"
expect = "1\tone\n2\tNULL"
[job.web.drill.check.view]
type = "sql"
source = "database"
query = "SELECT count(*) FROM big"
at_least = 1
"#;

#[track_caller]
fn nothing_left_at(world: &World, server: &Postgres) {
    let names = "SELECT datname FROM pg_database WHERE datname LIKE 'backup\\_drill\\_%'";
    assert_eq!(server.query("postgres", names), "");
    assert_eq!(world.sh("ls -A state/drill 2>/dev/null || true"), "");
}

#[test]
fn a_postgresql_dump_is_loaded_beside_the_live_databases_asked_and_dropped() {
    let server = Postgres::start();
    let source = as_superuser(&server);
    let world = postgres_world(&server, &source, &format!("{POSTGRES_DRILL}{HANG}"));
    let mut stopped = hanging(&world);
    world.sh(&format!("kill -TERM {}", stopped.id()));
    assert_ne!(stopped.wait().unwrap().code(), Some(0));
    nothing_left_at(&world, &server);
    world.sh("rm hangs");
    drop(Guard(hanging(&world)));
    world.agent("drill --due").exits(0);
    nothing_left_at(&world, &server);

    let source = postgres_source(&server, &source);
    world.configure(&format!("{ONE_JOB}{source}{POSTGRES_DRILL}"));
    let drill = drill(&world);
    assert_eq!(drill["ok"], true, "{drill}");
    assert_eq!((&drill["databases"], &drill["tables"], &drill["checks"]), (&1.into(), &3.into(), &2.into()));
    nothing_left_at(&world, &server);
    assert_eq!(server.query("shop", "SELECT count(*) FROM orders").trim(), "2");

    world.configure(&format!(
        "{ONE_JOB}{source}{}",
        POSTGRES_DRILL.replace("SELECT count(*) FROM big", "DELETE FROM orders RETURNING id")
    ));
    world.agent("drill").exits(1).says(&["check view: ", "read-only transaction"]);
    // A query that never ends is ended at the server too, else the database could not be dropped.
    world.configure(&format!(
        "{ONE_JOB}{source}{}timeout = \"2s\"\n",
        POSTGRES_DRILL
            .replace("SELECT count(*) FROM big", "SELECT count(*) FROM generate_series(1, 100000000000)")
    ));
    world.agent("drill").exits(1).says(&["check view: ", "had not finished after 2s"]);
    nothing_left_at(&world, &server);
}

#[test]
fn who_may_not_make_a_postgresql_database_is_told_and_another_login_can() {
    let server = Postgres::start();
    server.query("postgres", "CREATE ROLE backup LOGIN PASSWORD 'x' IN ROLE pg_read_all_data");
    let login = "host = '127.0.0.1'\nuser = 'backup'\npassword_file = '{}/password'\nglobals = false";
    let world = postgres_world(&server, login, POSTGRES_DRILL);
    world
        .agent("drill")
        .exits(1)
        .says(&["user backup may not make a scratch database at 127.0.0.1", "CREATEDB"]);
    nothing_left_at(&world, &server);
    let source = postgres_source(&server, login);
    let other =
        format!("[job.web.drill.server.database]\nport = {}\n{}\n", server.port, as_superuser(&server));
    world.configure(&format!("{ONE_JOB}{source}{POSTGRES_DRILL}{other}"));
    assert_eq!(drill(&world)["databases"], 1);
    nothing_left_at(&world, &server);
}
