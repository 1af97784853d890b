//! The `mysql` source against a real MariaDB server, started here on a socket and a free loopback port.
//!
//! Needs `mariadb-server` on the machine: `cargo test --features real-peers --test sources_mariadb`.
#![cfg(feature = "real-peers")]

mod peers;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use backup_agent::config::SourceConfig;
use backup_agent::manifest::{Content, Kind};
use backup_agent::model::ComponentName;
use backup_agent::source::{Capture, Part, Source, build};
use peers::mariadb::MariaDb;
use peers::stage::Stage;

/// Everything an option file or a shell might stumble over.
const PASSWORD: &str = "p#w;d \"double\" 'single' \\n back\\\\slash $HOME `x` =[] ü ";

/// What must be the same after a restore.
fn fingerprint(server: &MariaDb, database: &str) -> String {
    server.query(&format!(
        "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = '{database}';
         USE {database};
         SHOW CREATE TABLE orders; SHOW CREATE TABLE notes; SHOW CREATE VIEW totals;
         CHECKSUM TABLE orders, notes EXTENDED;
         SELECT id, label, HEX(raw), UNIX_TIMESTAMP(at), price FROM orders ORDER BY id;
         SELECT ROUTINE_NAME, ROUTINE_TYPE, ROUTINE_DEFINITION, DEFINER FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = '{database}' ORDER BY 1;
         SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = '{database}' ORDER BY 1;
         SELECT EVENT_NAME, EVENT_DEFINITION, STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = '{database}' ORDER BY 1"
    ))
}

const SHOP: &str = r#"
CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_german2_ci;
USE shop;
CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, label VARCHAR(200), raw VARBINARY(300), at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, price DECIMAL(10,2)) ENGINE=InnoDB;
CREATE TABLE notes (id INT PRIMARY KEY, body LONGTEXT) ENGINE=MyISAM;
SET time_zone = '+02:00';
INSERT INTO orders (label, raw, at, price) VALUES ('Grüße 🦀', x'00ff270a5c22', '2026-07-01 12:00:00', 1.10), (NULL, NULL, '2026-01-01 00:00:00', -3), ('quote '' and \\ backslash\nline', x'80', '2026-10-25 02:30:00', 0);
INSERT INTO orders (label, raw, at, price) SELECT CONCAT('row ', seq), UNHEX(SHA2(seq, 256)), '2026-06-01 10:00:00', seq FROM seq_1_to_5000;
INSERT INTO notes VALUES (1, 'plain');
CREATE VIEW totals AS SELECT COUNT(*) AS n, SUM(price) AS total FROM orders;
DELIMITER //
CREATE FUNCTION gross(net DECIMAL(10,2)) RETURNS DECIMAL(10,2) DETERMINISTIC RETURN net * 1.19//
CREATE PROCEDURE tidy() BEGIN DELETE FROM notes WHERE id < 0; SELECT 'semi;colon'; END//
CREATE TRIGGER stamp BEFORE INSERT ON notes FOR EACH ROW BEGIN SET NEW.body = CONCAT(NEW.body, ' (new)'); END//
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO BEGIN CALL tidy(); END//
DELIMITER ;
CREATE DATABASE other; CREATE TABLE other.t (id INT) ENGINE=InnoDB; INSERT INTO other.t VALUES (1);
"#;

/// One server with data, shared by the tests that only read it and are running; the last one ends it.
fn shop() -> Arc<MariaDb> {
    static SERVER: Mutex<Weak<MariaDb>> = Mutex::new(Weak::new());
    // A test that failed to start it leaves nothing half made.
    let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = MariaDb::start();
    server.load(SHOP.as_bytes());
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
    server.load(
        format!(
            "CREATE USER backup@localhost IDENTIFIED BY '{password}';
             CREATE USER backup@127.0.0.1 IDENTIFIED BY '{password}';
             GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, RELOAD ON *.* TO backup@localhost, backup@127.0.0.1;
             CREATE USER narrow@localhost IDENTIFIED BY 'x'; GRANT SELECT ON other.* TO narrow@localhost;
             CREATE USER strict@localhost IDENTIFIED BY 'x' REQUIRE SSL WITH MAX_USER_CONNECTIONS 5;
             GRANT SELECT ON *.* TO strict@localhost WITH GRANT OPTION;"
        )
        .as_bytes(),
    );
    let server = Arc::new(server);
    *shared = Arc::downgrade(&server);
    server
}

fn source(settings: &str) -> Box<dyn Source> {
    let config: SourceConfig = toml::from_str(&format!("type = 'mysql'\n{settings}")).unwrap();
    build(&ComponentName::new("database").unwrap(), &config).unwrap()
}

fn over_socket(server: &MariaDb, user: &str, password: &Path, databases: &str) -> Box<dyn Source> {
    source(&format!(
        "socket = '{}'\nuser = '{user}'\npassword_file = '{}'\ndatabases = {databases}",
        server.socket().display(),
        password.display()
    ))
}

fn failure(result: anyhow::Result<impl std::fmt::Debug>) -> String {
    let text = format!("{:#}", result.unwrap_err());
    assert!(!text.contains("p#w") && !text.contains("wrong-passw0rd"), "the password is shown: {text}");
    text
}

#[test]
fn a_dump_restores_into_another_server_with_tables_routines_triggers_events_and_views() {
    let (server, stage) = (shop(), Stage::new());
    let source = over_socket(&server, "backup", &stage.password(PASSWORD), "['shop']");
    let warnings = stage.warnings(&*source);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("shop.notes (MyISAM)"), "{warnings:?}");
    let dump = stage.capture(&*source).unwrap();

    let fresh = MariaDb::start();
    fresh.load(&dump);
    assert_eq!(fingerprint(&fresh, "shop"), fingerprint(&server, "shop"));
    assert_eq!(fresh.query("SHOW DATABASES LIKE 'other'"), "");
    // The restored objects work.
    fresh.query("USE shop; INSERT INTO notes VALUES (2, 'x'); CALL tidy()");
    assert_eq!(fresh.query("SELECT body, shop.gross(100) FROM shop.notes WHERE id = 2"), "x (new)\t119.00\n");

    // And all databases, users included, into yet another one.
    let source = over_socket(&server, "backup", &stage.password(PASSWORD), "[]");
    source.preflight(&stage.context).unwrap();
    let fresh = MariaDb::start();
    fresh.load(&stage.capture(&*source).unwrap());
    assert_eq!(fingerprint(&fresh, "shop"), fingerprint(&server, "shop"));
    assert_eq!(fresh.query("SELECT id FROM other.t"), "1\n");
    assert!(fresh.query("SELECT User FROM mysql.user").contains("backup"));
}

#[test]
fn every_way_to_give_the_login_works_with_a_password_full_of_special_characters() {
    let (server, stage) = (shop(), Stage::new());
    let (socket, port) = (server.socket().display().to_string(), server.port);
    let quoted = PASSWORD.replace('\\', "\\\\").replace('"', "\\\"");
    let option_file =
        stage.file("my.cnf", &format!("[client]\nuser = backup\npassword = \"{quoted}\"\n"), 0o600);
    let bare_file = stage.file("bare.cnf", &format!("[client]\nsocket = {socket}\nuser = backup\n"), 0o600);
    let env = stage.file(
        "env",
        &format!(
            "DB_CONNECTION=mysql\nDB_HOST=127.0.0.1\nDB_PORT={port}\nDB_DATABASE=other\nDB_USERNAME=backup\nDB_PASSWORD=\"{}\"\n",
            quoted.replace('$', "\\$")
        ),
        0o640,
    );
    let password = stage.password(PASSWORD);
    let (option_file, bare_file, env, password) =
        (option_file.display(), bare_file.display(), env.display(), password.display());
    for settings in [
        format!("defaults_file = '{option_file}'\nsocket = '{socket}'\ndatabases = ['other']"),
        format!("defaults_file = '{option_file}'\nhost = '127.0.0.1'\nport = {port}\ndatabases = ['other']"),
        format!("defaults_file = '{bare_file}'\npassword_file = '{password}'\ndatabases = ['other']"),
        format!(
            "host = '127.0.0.1'\nport = {port}\nuser = 'backup'\npassword_file = '{password}'\ndatabases = ['other']"
        ),
        format!("env_file = '{env}'"),
        // root, by the socket alone.
        format!("socket = '{socket}'\nuser = 'root'\ndatabases = ['other']"),
    ] {
        let source = source(&settings);
        let warnings = stage.warnings(&*source);
        assert!(warnings.is_empty(), "{settings}: {warnings:?}");
        let dump = String::from_utf8(stage.capture(&*source).unwrap()).unwrap();
        assert!(dump.contains("INSERT INTO `t` VALUES") && dump.contains("-- Dump completed"), "{settings}");
    }
}

#[test]
fn the_password_is_in_no_process_list_while_the_dump_runs() {
    let (server, stage) = (MariaDb::start(), Stage::new());
    // More than waits on the way, so that the program still runs.
    server.load(
        b"CREATE DATABASE big; USE big; CREATE TABLE big.t (id INT PRIMARY KEY, x CHAR(250));
          INSERT INTO big.t SELECT seq, REPEAT('x', 250) FROM seq_1_to_200000;",
    );
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
    server.load(
        format!(
            "CREATE USER backup@localhost IDENTIFIED BY '{password}'; GRANT ALL ON *.* TO backup@localhost;"
        )
        .as_bytes(),
    );
    let source = over_socket(&server, "backup", &stage.password(PASSWORD), "['big']");
    let Capture::Stream(mut stream) =
        source.open(&stage.parts(&*source).unwrap()[0], &stage.context).unwrap()
    else {
        panic!()
    };
    let mut first = [0; 100];
    stream.reader().read_exact(&mut first).unwrap();
    let mut dumps = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let Ok(bytes) = fs::read(entry.path().join(file)) else { continue };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!text.contains("p#w;d"), "{text}");
            dumps +=
                usize::from(file == "cmdline" && text.contains(&*stage.context.scratch.to_string_lossy()));
        }
    }
    assert!(dumps > 0, "no dump was running while the process list was read");
    std::io::copy(&mut stream.reader(), &mut std::io::sink()).unwrap();
    stream.finish().unwrap();
}

#[test]
fn a_wrong_password_names_user_and_place_and_not_the_password() {
    let (server, stage) = (shop(), Stage::new());
    let password = stage.password("wrong-passw0rd");
    let source = over_socket(&server, "backup", &password, "['shop']");
    for text in [failure(source.preflight(&stage.context)), failure(stage.capture(&*source))] {
        assert!(text.contains("refused the login of user backup"), "{text}");
        assert!(
            text.contains(&*server.socket().to_string_lossy()) && text.contains(&*password.to_string_lossy()),
            "{text}"
        );
    }
}

#[test]
fn a_missing_database_is_named_together_with_those_there_are() {
    let (server, stage) = (shop(), Stage::new());
    let source = over_socket(&server, "backup", &stage.password(PASSWORD), "['shop', 'shpo']");
    let text = failure(source.preflight(&stage.context));
    assert!(text.contains("no database shpo") && text.contains("other, shop"), "{text}");
    // One that is dropped between the look and the dump.
    let part = Part::whole(source.name(), "sql", Kind::Stream, Content::Mysql);
    let part = Part { databases: vec!["shop".to_owned(), "shpo".to_owned()], ..part };
    let text = failure(stage.capture_part(&*source, &part));
    assert!(text.contains("does not exist") && text.contains("shpo"), "{text}");
}

#[test]
fn a_server_that_is_not_there_is_told_as_such() {
    let stage = Stage::new();
    let port = 1; // nobody listens there
    let password = stage.password("wrong-passw0rd");
    let source = source(&format!(
        "host = '127.0.0.1'\nport = {port}\nuser = 'backup'\npassword_file = '{}'\ndatabases = ['shop']",
        password.display()
    ));
    for text in [failure(source.preflight(&stage.context)), failure(stage.capture(&*source))] {
        assert!(text.contains(&format!("no database server answers at 127.0.0.1, port {port}")), "{text}");
    }
}

#[test]
fn a_user_without_the_needed_privileges_fails_the_dump() {
    let (server, stage) = (shop(), Stage::new());
    let source = over_socket(&server, "narrow", &stage.password("x"), "['other']");
    let text = failure(stage.capture(&*source));
    assert!(text.contains("user narrow lacks a privilege"), "{text}");
}

#[test]
fn a_dump_program_older_than_the_server_is_refused_with_both_versions() {
    let (server, stage) = (shop(), Stage::new());
    let program = stage.file(
        "old-dump",
        "#!/bin/sh\necho 'mysqldump  Ver 10.19 Distrib 5.5.68-MariaDB, for Linux (x86_64)'\n",
        0o755,
    );
    let password = stage.password(PASSWORD);
    let source = source(&format!(
        "program = '{}'\nsocket = '{}'\nuser = 'backup'\npassword_file = '{}'\ndatabases = ['shop']",
        program.display(),
        server.socket().display(),
        password.display()
    ));
    let text = failure(source.preflight(&stage.context));
    let version = server.query("SELECT VERSION()");
    assert!(text.contains("5.5.68-MariaDB") && text.contains(version.trim()), "{text}");
}

#[test]
fn a_server_that_dies_during_the_dump_fails_it() {
    let stage = Stage::new();
    let mut server = MariaDb::start();
    server.load(
        b"CREATE DATABASE big; USE big; CREATE TABLE big.t (id INT PRIMARY KEY, x CHAR(250));
          INSERT INTO big.t SELECT seq, REPEAT('x', 250) FROM seq_1_to_200000;
          CREATE USER backup@localhost IDENTIFIED BY 'x'; GRANT ALL ON *.* TO backup@localhost;",
    );
    let source = over_socket(&server, "backup", &stage.password("x"), "['big']");
    let Capture::Stream(mut stream) =
        source.open(&stage.parts(&*source).unwrap()[0], &stage.context).unwrap()
    else {
        panic!()
    };
    let mut first = vec![0; 1 << 20];
    stream.reader().read_exact(&mut first).unwrap();
    server.child.kill().unwrap();
    let mut rest = Vec::new();
    let _ = stream.reader().read_to_end(&mut rest);
    let text = failure(stream.finish());
    assert!(text.contains("broke off") && text.contains("exit code"), "{text}");
}

/// Names of the components, without the source's.
fn names(parts: &[Part]) -> Vec<&str> {
    parts.iter().map(|part| part.name.as_str().trim_start_matches("database.")).collect()
}

#[test]
fn databases_are_chosen_by_pattern_and_each_gets_a_component_of_its_own() {
    let (server, stage) = (shop(), Stage::new());
    let password = stage.password(PASSWORD);
    let parts = |more: &str| {
        let socket = server.socket();
        let source = source(&format!(
            "socket = '{}'\nuser = 'backup'\npassword_file = '{}'\n{more}",
            socket.display(),
            password.display()
        ));
        stage.parts(&*source).map(|parts| (source, parts))
    };
    let (source, found) = parts("split = true").unwrap();
    assert_eq!(names(&found), ["other", "shop"]);
    assert_eq!(found[1].file_name, "database.shop.sql");
    assert_eq!(found[1].databases, ["shop"]);
    let dump = String::from_utf8(stage.capture_part(&*source, &found[0]).unwrap()).unwrap();
    assert!(dump.contains("CREATE DATABASE") && dump.contains("`other`") && !dump.contains("`shop`"));

    assert_eq!(names(&parts("split = true\nexclude_databases = ['s*']").unwrap().1), ["other"]);
    assert_eq!(names(&parts("split = true\ndatabases = ['*h*']").unwrap().1), ["other", "shop"]);
    // One dump of those that match.
    let (source, found) = parts("databases = ['sho*']").unwrap();
    assert_eq!((names(&found), &found[0].databases[..]), (vec!["database"], &["shop".to_owned()][..]));
    let dump = String::from_utf8(stage.capture(&*source).unwrap()).unwrap();
    assert!(dump.contains("`shop`") && !dump.contains("CREATE DATABASE /*!32312 IF NOT EXISTS*/ `other`"));

    let text = failure(parts("databases = ['webshop_*']").map(|(_, parts)| parts));
    assert!(text.contains("matches \"webshop_*\"") && text.contains("other, shop"), "{text}");
    let (_, none) = parts("databases = ['webshop_*']\nallow_empty = true").unwrap();
    assert!(none.is_empty(), "{none:?}");
}

#[test]
fn accounts_and_grants_come_back_on_another_server_by_either_way_to_read_them() {
    let (server, stage) = (shop(), Stage::new());
    // A dump program of Oracle's does not write accounts; then the server is asked for them.
    let oracle = stage.file(
        "mysqldump",
        "#!/bin/sh\ncase \"$1\" in --version) echo 'mysqldump  Ver 8.0.36 for Linux on x86_64';; esac\n",
        0o755,
    );
    for program in [String::new(), format!("program = '{}'", oracle.display())] {
        let source = source(&format!(
            "socket = '{}'\nuser = 'root'\nusers = true\ndatabases = ['other']\n{program}",
            server.socket().display()
        ));
        let parts = stage.parts(&*source).unwrap();
        assert_eq!(names(&parts), ["database", "users-and-grants"]);
        let sql = stage.capture_part(&*source, &parts[1]).unwrap();
        let fresh = MariaDb::start();
        fresh.load(&sql);
        // A second time does no harm: accounts that exist stay.
        fresh.load(&sql);
        let grants = |server: &MariaDb| {
            server.query("SHOW GRANTS FOR backup@localhost; SHOW GRANTS FOR narrow@localhost")
        };
        assert_eq!(grants(&fresh), grants(&server), "{program}");

        // An account that exists keeps the password it has meanwhile, and gets what it may do; one that is
        // missing gets that of the dump.
        let hash = |server: &MariaDb, user: &str| {
            server
                .query(&format!("SELECT authentication_string FROM mysql.user WHERE User = '{user}' LIMIT 1"))
        };
        fresh.query(
            "ALTER USER backup@localhost IDENTIFIED BY 'new'; ALTER USER backup@127.0.0.1 IDENTIFIED BY 'new';
             REVOKE ALL PRIVILEGES, GRANT OPTION FROM backup@localhost; DROP USER narrow@localhost;
             ALTER USER root@localhost IDENTIFIED VIA unix_socket",
        );
        let (new, root) = (hash(&fresh, "backup"), hash(&fresh, "root"));
        fresh.load(&sql);
        assert_eq!((hash(&fresh, "backup"), hash(&fresh, "root")), (new, root), "{program}");
        assert_eq!(hash(&fresh, "narrow"), hash(&server, "narrow"), "{program}");
        assert!(fresh.query("SHOW GRANTS FOR backup@localhost").contains("SELECT, "), "{program}");
        assert_eq!(
            fresh.query("SHOW GRANTS FOR strict@localhost"),
            server.query("SHOW GRANTS FOR strict@localhost"),
            "{program}"
        );
    }
    // Who may not read them is told so before anything is dumped.
    let password = stage.file("narrow", "x", 0o600);
    let source = source(&format!(
        "socket = '{}'\nuser = 'narrow'\npassword_file = '{}'\nusers = true\ndatabases = ['other']",
        server.socket().display(),
        password.display()
    ));
    let text = failure(source.preflight(&stage.context));
    assert!(text.contains("user narrow lacks a privilege"), "{text}");
}
