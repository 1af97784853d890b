//! The `postgres` source against a real PostgreSQL server, started here as the user `postgres`.
//!
//! Needs `postgresql` on the machine: `cargo test --features real-peers --test sources_postgres`.
#![cfg(feature = "real-peers")]

mod peers;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use backup_agent::config::SourceConfig;
use backup_agent::model::ComponentName;
use backup_agent::source::{Part, Source, build};
use peers::postgres::{Postgres, USER, bin};
use peers::stage::Stage;

const PASSWORD: &str = "p:w\\;d 'x' \"y\" ü";

fn source(settings: &str) -> Box<dyn Source> {
    let config: SourceConfig =
        toml::from_str(&format!("type = 'postgres'\nbin_dir = '{}'\n{settings}", bin().display())).unwrap();
    build(&ComponentName::new("database").unwrap(), &config).unwrap()
}

fn by_peer(server: &Postgres, more: &str) -> Box<dyn Source> {
    source(&format!(
        "socket = '{}'\nport = {}\nrun_as = '{USER}'\n{more}",
        server.socket().display(),
        server.port
    ))
}

fn names(parts: &[Part]) -> Vec<&str> {
    parts.iter().map(|part| part.name.as_str()).collect()
}

fn failure(result: anyhow::Result<impl std::fmt::Debug>) -> String {
    let text = format!("{:#}", result.unwrap_err());
    assert!(!text.contains("p:w") && !text.contains("wrong-passw0rd"), "the password is shown: {text}");
    text
}

const DATA: &str = r#"
CREATE TABLE orders (id serial PRIMARY KEY, label text, raw bytea, at timestamptz NOT NULL, price numeric(10,2));
INSERT INTO orders (label, raw, at, price) VALUES ('Grüße 🦀', '\x00ff270a5c22', '2026-07-01 12:00+02', 1.10), (NULL, NULL, '2026-01-01 00:00+01', -3);
INSERT INTO orders (label, raw, at, price) SELECT 'row ' || n, decode(md5(n::text), 'hex'), '2026-06-01 10:00+02', n FROM generate_series(1, 20000) n;
CREATE VIEW totals AS SELECT count(*) AS n, sum(price) AS total FROM orders;
CREATE FUNCTION gross(net numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT net * 1.19';
SELECT lo_from_bytea(0, decode(repeat('00ff', 5000), 'hex'));
GRANT SELECT ON orders TO reader;
ALTER TABLE orders OWNER TO app;
"#;

fn shop() -> Postgres {
    let server = Postgres::start();
    server.load("postgres", b"CREATE ROLE app; CREATE ROLE reader; GRANT app TO reader; CREATE DATABASE shop OWNER app; CREATE DATABASE \"Shop=2 it's\"; CREATE DATABASE wiki");
    let password = PASSWORD.replace('\'', "''");
    server.load(
        "postgres",
        format!(
            "CREATE ROLE backup SUPERUSER LOGIN PASSWORD '{password}'; CREATE ROLE narrow LOGIN PASSWORD 'x'"
        )
        .as_bytes(),
    );
    server.load("shop", DATA.as_bytes());
    server.load("Shop=2 it's", b"CREATE TABLE t AS SELECT 7 AS n");
    server
}

fn fingerprint(server: &Postgres, database: &str) -> String {
    server.query(
        database,
        "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o; SELECT n, total, gross(100) FROM totals;
         SELECT pg_get_userbyid(relowner), relacl FROM pg_class WHERE relname = 'orders'; SELECT nextval('orders_id_seq') > 20000;
         SELECT count(*), sum(length(lo_get(oid))) FROM pg_largeobject_metadata",
    )
}

/// Runs a restore command of RESTORE.txt's with a dump on its standard input.
fn restore(server: &Postgres, program: &str, args: &[&str], dump: &[u8], stage: &Stage) {
    let path = stage.dir.path().join("dump");
    fs::write(&path, dump).unwrap();
    let out = server.tool(program).args(args).stdin(fs::File::open(&path).unwrap()).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_backup_of_a_server_restores_into_another_one_with_roles_owners_and_large_objects() {
    let (server, stage) = (shop(), Stage::new());
    let source = by_peer(&server, "");
    let parts = stage.parts(&*source).unwrap();
    let expected =
        ["database.globals", "database.shop-2-it-s-", "database.postgres", "database.shop", "database.wiki"];
    let named = names(&parts);
    assert_eq!(named.len(), expected.len(), "{named:?}");
    assert!(named.iter().zip(expected).all(|(name, begin)| name.starts_with(begin)), "{named:?}");
    assert_eq!(parts[1].databases, ["Shop=2 it's"]);
    assert_eq!(
        (parts[0].file_name.as_str(), parts[3].file_name.as_str()),
        ("database.globals.sql", "database.shop.pgdump")
    );
    let dumps: Vec<Vec<u8>> = parts.iter().map(|part| stage.capture_part(&*source, part).unwrap()).collect();
    // Not compressed by PostgreSQL: that is the engine's.
    assert!(dumps[3].windows(9).any(|w| w == b"row 19999"), "the dump is compressed");

    let fresh = Postgres::start();
    // A role that exists already, the superuser, is an error that does no harm.
    let globals = stage.dir.path().join("globals");
    fs::write(&globals, &dumps[0]).unwrap();
    fresh
        .tool("psql")
        .args(["-X", "-q", "-d", "postgres"])
        .stdin(fs::File::open(globals).unwrap())
        .output()
        .unwrap();
    restore(&fresh, "pg_restore", &["--create", "--exit-on-error", "-d", "postgres"], &dumps[3], &stage);
    let before = fingerprint(&server, "shop");
    assert!(before.contains("app|") && before.contains("10000"), "{before}");
    assert_eq!(fingerprint(&fresh, "shop"), before);
    // And under another name.
    restore(&fresh, "createdb", &["-T", "template0", "shop_restored"], b"", &stage);
    restore(
        &fresh,
        "pg_restore",
        &["--no-owner", "--exit-on-error", "-d", "shop_restored"],
        &dumps[3],
        &stage,
    );
    assert_eq!(fresh.query("shop_restored", "SELECT count(*) FROM orders"), "20002\n");
    restore(&fresh, "pg_restore", &["--create", "--exit-on-error", "-d", "postgres"], &dumps[1], &stage);
    assert_eq!(fresh.query("Shop=2 it's", "SELECT n FROM t"), "7\n");
}

#[test]
fn every_way_to_give_the_login_works_and_a_wrong_one_is_told_without_the_password() {
    let (server, stage) = (shop(), Stage::new());
    let (socket, port) = (server.socket().display().to_string(), server.port);
    let password = stage.file("password", PASSWORD, 0o600);
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let passfile = stage.file("pgpass", &format!("127.0.0.1:{port}:*:backup:{escaped}\n"), 0o600);
    for settings in [
        format!(
            "host = '127.0.0.1'\nport = {port}\nuser = 'backup'\npassword_file = '{}'",
            password.display()
        ),
        format!("host = '127.0.0.1'\nport = {port}\nuser = 'backup'\npassfile = '{}'", passfile.display()),
        format!("socket = '{socket}'\nport = {port}\nrun_as = '{USER}'"),
    ] {
        let source = source(&format!("{settings}\ndatabases = ['wi*']\nglobals = false"));
        let parts = stage.parts(&*source).unwrap_or_else(|error| panic!("{settings}: {error:#}"));
        assert_eq!(names(&parts), ["database.wiki"], "{settings}");
        assert!(stage.capture_part(&*source, &parts[0]).unwrap().starts_with(b"PGDMP"), "{settings}");
    }
    let wrong = stage.file("wrong", "wrong-passw0rd", 0o600);
    let login = format!("host = '127.0.0.1'\nport = {port}\n");
    for (settings, expected) in [
        (
            format!("{login}user = 'backup'\npassword_file = '{}'", wrong.display()),
            "refused the login of user backup",
        ),
        (format!("socket = '{socket}'\nport = {port}\nuser = 'backup'"), "refused the login of user backup"),
        ("host = '127.0.0.1'\nport = 1".to_owned(), "no PostgreSQL server answers at 127.0.0.1, port 1"),
        (
            format!("{login}user = 'backup'\npassword_file = '{}'\ndatabases = ['none']", password.display()),
            "there is no database none",
        ),
        (
            format!(
                "{login}user = 'backup'\npassword_file = '{}'\ndatabases = ['none*']",
                password.display()
            ),
            "there are: Shop=2 it's, postgres, shop, wiki",
        ),
        ("run_as = 'nobody-of-that-name'".to_owned(), "there is no user nobody-of-that-name"),
    ] {
        let text = failure(stage.parts(&*source(&settings)));
        assert!(text.contains(expected), "{settings}: {text}");
    }
    // One who may log in and not read is told at the dump.
    let narrow = stage.file("narrow", "x", 0o600);
    let source = source(&format!(
        "{login}user = 'narrow'\npassword_file = '{}'\ndatabases = ['shop']\nglobals = false",
        narrow.display()
    ));
    let parts = stage.parts(&*source).unwrap();
    let text = failure(stage.capture_part(&*source, &parts[0]));
    assert!(text.contains("user narrow lacks a privilege"), "{text}");
}

#[test]
fn a_dump_program_older_than_the_server_is_refused_with_both_versions() {
    let (server, stage) = (Postgres::start(), Stage::new());
    for program in ["psql", "pg_restore", "pg_dumpall"] {
        std::os::unix::fs::symlink(bin().join(program), stage.dir.path().join(program)).unwrap();
    }
    stage.file("pg_dump", "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n", 0o755);
    fs::set_permissions(stage.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config: SourceConfig = toml::from_str(&format!(
        "type = 'postgres'\nbin_dir = '{}'\nsocket = '{}'\nport = {}\nrun_as = '{USER}'",
        stage.dir.path().display(),
        server.socket().display(),
        server.port
    ))
    .unwrap();
    let source = build(&ComponentName::new("database").unwrap(), &config).unwrap();
    let text = failure(stage.parts(&*source));
    let own = server.query("postgres", "SHOW server_version");
    assert!(
        text.contains("pg_dump (9.6.24) is older than the server") && text.contains(own.trim()),
        "{text}"
    );
}
