//! Dumps back into databases, by the real binary: MariaDB and PostgreSQL servers of the tests' own.
//!
//! `cargo test --features real-peers --test load_databases`
#![cfg(feature = "real-peers")]

mod peers;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
#[cfg(feature = "failpoints")]
use std::time::{Duration, Instant};

use peers::mariadb::MariaDb;
use peers::postgres::{Postgres, USER, bin};

struct Home(tempfile::TempDir);

impl Home {
    fn new(sources: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        fs::create_dir(dir.path().join("local")).unwrap();
        let config = format!(
            "state_dir = '{root}/state'\n[target.local]\ntype = 'directory'\npath = '{root}/local'\n\
             [job.shop]\nschedule = '0 3 * * *'\ntargets = ['local']\n{sources}"
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn agent(&self, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path().join("config.toml")).args(args.split(' '));
        command.output().unwrap()
    }

    #[track_caller]
    fn works(&self, args: &str) -> String {
        let out = self.agent(args);
        assert!(out.status.success(), "{args}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, args: &str, texts: &[&str]) {
        let out = self.agent(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "{args} worked");
        for text in texts {
            assert!(said.contains(text), "{args}: {text:?} is missing in: {said}");
        }
        let left = fs::read_dir(self.path().join("state")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("loading")), "{left:?}");
    }

    /// The agent with something that happens at a place in it.
    #[cfg(feature = "failpoints")]
    fn failing(&self, args: &str, failpoint: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path().join("config.toml")).args(args.split(' '));
        command.env("BACKUP_AGENT_FAILPOINT", failpoint);
        command.env("BACKUP_AGENT_FAILPOINT_TRACE", self.path().join("trace"));
        command
    }

    /// What the agent says that is interrupted when a dump has been loaded.
    #[cfg(feature = "failpoints")]
    fn interrupted(&self, args: &str, failpoint: &str) -> String {
        let _ = fs::remove_file(self.path().join("trace"));
        let mut command = self.failing(args, failpoint);
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while !fs::read_to_string(self.path().join("trace")).is_ok_and(|trace| trace.contains("fired ")) {
            assert!(begun.elapsed() < Duration::from_secs(60), "the place is never passed");
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        // It is noticed by another thread.
        std::thread::sleep(Duration::from_millis(300));
        fs::write(self.path().join("trace.go"), "").unwrap();
        let out = child.wait_with_output().unwrap();
        fs::remove_file(self.path().join("trace.go")).unwrap();
        assert_eq!(out.status.code(), Some(130), "{out:?}");
        String::from_utf8(out.stderr).unwrap()
    }

    /// A file with a secret.
    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    /// The stored file of a component, of the newest backup.
    fn stored(&self, name: &str) -> std::path::PathBuf {
        let found =
            Command::new("find").arg(self.path().join("local")).args(["-name", name]).output().unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        found.lines().max().unwrap_or_default().into()
    }
}

#[test]
fn a_mariadb_database_comes_back_under_its_own_and_under_another_name() {
    let server = MariaDb::start();
    server.load(
        b"CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
          CREATE TABLE orders (id INT PRIMARY KEY, note TEXT);
          INSERT INTO orders VALUES (1, 'USE `shop`;\n-- Current Database: `other`\n'), (2, 'Gr\xc3\xbc\xc3\x9fe');
          CREATE VIEW big AS SELECT id FROM orders WHERE id > 1;
          CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW SET NEW.note = 'new';
          CREATE DATABASE other; CREATE TABLE other.secret (id INT);",
    );
    let socket = server.socket();
    let home = Home::new(&format!(
        "[job.shop.source.database]\ntype = 'mysql'\nsocket = '{}'\nuser = 'root'\ndatabases = ['shop', 'other']\n",
        socket.display()
    ));
    home.works("backup");

    home.fails("restore latest --into copy --component database", &["which database", "other, shop"]);
    home.fails(
        "restore latest --into shop --component database",
        &["there is a database shop at", "--force"],
    );
    home.fails("restore latest --into copy --database none", &["has no database none"]);
    home.fails("restore latest --into copy", &["which database", "--database", "other, shop"]);
    home.fails(
        "restore latest --into mysql --database shop --force",
        &["mysql is a database of the server itself"],
    );

    let said = home.works("restore latest --into shop_copy --database shop");
    assert!(
        said.starts_with("loaded database of ") && said.contains("into the database shop_copy"),
        "{said}"
    );
    assert_eq!(
        server.query("SELECT id, note FROM shop_copy.orders"),
        server.query("SELECT id, note FROM shop.orders")
    );
    assert_eq!(server.query("SELECT id FROM shop_copy.big"), "2\n");
    server.query("INSERT INTO shop_copy.orders VALUES (3, 'x')");
    assert_eq!(server.query("SELECT note FROM shop_copy.orders WHERE id = 3"), "new\n");
    assert_eq!(server.query("SHOW TABLES IN shop_copy"), "big\norders\n");
    // The copy is filled, not the original: its view reads its own table.
    server.query("DELETE FROM shop.orders");
    assert_eq!(server.query("SELECT id FROM shop_copy.big"), "2\n3\n");

    home.works("restore latest --into shop --force");
    assert_eq!(server.query("SELECT COUNT(*) FROM shop.orders"), "2\n");

    // A damaged dump leaves no half-filled database.
    let stored = home.stored("database.sql.zst");
    let mut bytes = fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&stored, bytes).unwrap();
    home.fails("restore latest --into half --database shop", &["loading half: reading the dump: "]);
    assert_eq!(server.query("SHOW DATABASES LIKE 'half'"), "");
    let left: Vec<_> =
        fs::read_dir(home.path().join("state")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("loading")), "{left:?}");

    // Encrypted, it is loaded with the key.
    let key = home.path().join("key.txt");
    let made = home.works(&format!("key generate --output {}", key.display()));
    let public = made.lines().next().unwrap().strip_prefix("public key: ").unwrap();
    let config = fs::read_to_string(home.path().join("config.toml")).unwrap();
    fs::write(home.path().join("config.toml"), format!("{config}[encryption]\nrecipients = ['{public}']\n"))
        .unwrap();
    home.works("backup");
    assert!(home.stored("database.sql.zst.age").exists());
    home.fails("restore latest --into sealed --database shop", &[public, "--identity FILE"]);
    home.works(&format!("restore latest --into sealed --database shop --identity {}", key.display()));
    assert_eq!(server.query("SELECT COUNT(*) FROM sealed.orders"), "2\n");
}

#[test]
fn a_postgresql_database_comes_back_under_another_name() {
    let server = Postgres::start();
    server.query("postgres", "CREATE DATABASE shop");
    server.query("shop", "CREATE TABLE orders (id int PRIMARY KEY, note text)");
    server.query("shop", "INSERT INTO orders VALUES (1, 'Grüße'), (2, 'two')");
    let home = Home::new(&format!(
        "[job.shop.source.database]\ntype = 'postgres'\nbin_dir = '{}'\nsocket = '{}'\nport = {}\nrun_as = '{USER}'\n",
        bin().display(),
        server.socket().display(),
        server.port
    ));
    home.works("backup");
    home.fails("restore latest --into shop", &["there is a database shop at", "--force"]);
    home.fails("restore latest --into x --component database.globals", &["belong to no database"]);
    home.fails("restore latest --into postgres --database shop", &["is a database of the server itself"]);
    home.fails("restore latest --into shop-copy", &["which database", "it has: postgres, shop"]);
    home.works("restore latest --into shop-copy --database shop");
    assert_eq!(
        server.query("shop-copy", "SELECT string_agg(note, ',' ORDER BY id) FROM orders").trim(),
        "Grüße,two"
    );
    server.query("shop", "DELETE FROM orders");
    home.works("restore latest --into shop --force");
    assert_eq!(server.query("shop", "SELECT count(*) FROM orders").trim(), "2");

    // What needs an owner that is not there says so, and leaves nothing.
    server.query("postgres", "CREATE ROLE vendor");
    server.query("shop", "ALTER TABLE orders OWNER TO vendor");
    home.works("backup");
    server.query("shop", "ALTER TABLE orders OWNER TO postgres");
    server.query("postgres", "DROP ROLE vendor");
    home.fails("restore latest --into other --database shop", &["--no-owner", "removed again"]);
    assert_eq!(
        server.query("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'other'").trim(),
        "0"
    );
    home.works("restore latest --into other --database shop --no-owner");
    assert_eq!(server.query("other", "SELECT count(*) FROM orders").trim(), "2");
}

/// What must be as before when a restore does not come about.
fn live(server: &MariaDb) -> String {
    server.query("CHECKSUM TABLE shop.orders; SHOW TABLES IN shop; SHOW DATABASES")
}

#[test]
fn a_mariadb_database_is_dropped_only_when_all_of_the_dump_has_loaded_beside_it() {
    let server = MariaDb::start();
    server.load(
        b"CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY, note TEXT);
          INSERT INTO orders VALUES (1, 'one'), (2, 'two');
          CREATE VIEW big AS SELECT id FROM orders WHERE id > 1;
          CREATE EVENT often ON SCHEDULE EVERY 1 SECOND DO DELETE FROM orders WHERE id = 9;
          CREATE USER weak@localhost IDENTIFIED BY 'x'; CREATE USER narrow@localhost IDENTIFIED BY 'x';
          GRANT ALL ON shop.* TO narrow@localhost; GRANT ALL ON shop.* TO weak@localhost;
          GRANT ALL ON `backup\\_restore\\_%`.* TO weak@localhost;
          CREATE USER reader@localhost IDENTIFIED BY 'x'; GRANT SELECT ON *.* TO reader@localhost;",
    );
    let socket = server.socket().display().to_string();
    let home = Home::new(&format!(
        "[job.shop.source.database]\ntype = 'mysql'\nsocket = '{socket}'\nuser = 'root'\ndatabases = ['shop']\n"
    ));
    home.works("backup");
    server.query("INSERT INTO shop.orders VALUES (3, 'newer than the backup')");
    let before = live(&server);
    let login = |user: &str| {
        home.secret(user, &format!("[client]\nuser = {user}\npassword = x\nsocket = {socket}\n"))
    };
    let as_it_was = "the database shop is as it was";

    // Rights that are missing: of the temporary database, and of what belongs to others.
    let said = home.agent(&format!("restore latest --into shop --force --login-file {}", login("narrow")));
    let said = String::from_utf8(said.stderr).unwrap();
    for text in [
        as_it_was,
        "user narrow may not make and fill the temporary database backup_restore_shop_",
        "GRANT ALL PRIVILEGES ON `backup\\_restore\\_%`.*",
        "--login-file",
        "ERROR 1044",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert!(!said.contains("left") && said.len() < 600, "{said}");
    home.fails(
        &format!("restore latest --into shop --force --login-file {}", login("weak")),
        &[as_it_was, "what was loaded beside it is removed again", "DEFINER", "--login-file", "ERROR 1227"],
    );
    assert_eq!(live(&server), before);
    // A new database of its own: who only reads makes none, and nothing is said to be left.
    let said = home.agent(&format!("restore latest --into w2 --login-file {}", login("reader")));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("loading w2: user reader may not make and fill the database w2 at "), "{said}");
    assert!(said.contains("--login-file") && !said.contains("left") && !said.contains("removed"), "{said}");

    // A dump that is damaged, or cut off at the end of a frame.
    let stored = home.stored("database.sql.zst");
    let good = fs::read(&stored).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    for damaged in [&bad[..], &good[..middle], &[]] {
        fs::write(&stored, damaged).unwrap();
        home.fails("restore latest --into shop --force", &[as_it_was]);
        assert_eq!(live(&server), before);
    }
    fs::write(&stored, &good).unwrap();

    home.works("restore latest --into shop --force");
    assert_eq!(server.query("SELECT COUNT(*) FROM shop.orders; SELECT id FROM shop.big"), "2\n2\n");
    let events = "SELECT EVENT_SCHEMA, STATUS FROM information_schema.EVENTS";
    assert_eq!(server.query(events), "shop\tENABLED\n");
    assert_eq!(server.query("SHOW DATABASES LIKE 'backup%'"), "");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_mariadb_restore_that_is_cut_short_leaves_the_one_or_the_other_and_says_where() {
    let server = MariaDb::start();
    server.load(
        b"CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY, note TEXT);
          INSERT INTO orders VALUES (1, 'one'), (2, 'two');",
    );
    let home = Home::new(&format!(
        "[job.shop.source.database]\ntype = 'mysql'\nsocket = '{}'\nuser = 'root'\ndatabases = ['shop']\n",
        server.socket().display()
    ));
    home.works("backup");
    server.query("INSERT INTO shop.orders VALUES (3, 'newer than the backup')");
    let before = live(&server);
    let beside = || server.query("SHOW DATABASES LIKE 'backup\\_restore\\_%'");
    let folders = || {
        let entries = fs::read_dir(home.path().join("state")).unwrap();
        entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("loading-")).count()
    };

    let said = home.interrupted("restore latest --into shop --force", "load-filled#1=pause");
    assert!(
        said.contains("the database shop is as it was, and what was loaded beside it is removed again"),
        "{said}"
    );
    assert_eq!((live(&server), folders()), (before.clone(), 0));

    // Killed before anything is dropped: `tend` removes what is left.
    home.failing("restore latest --into shop --force", "load-filled#1=kill").output().unwrap();
    assert_eq!((beside().lines().count(), folders()), (1, 1));
    let said = home.works("tend");
    assert!(said.contains("of a restore into shop that died is dropped"), "{said}");
    assert_eq!((live(&server), folders()), (before, 0));

    // Past the moment: everything is there under another name, and that is said.
    let out = home.failing("restore latest --into shop --force", "load-filled#2=error").output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    let name = beside().trim().to_owned();
    assert!(
        said.contains("the database shop that was there has been dropped")
            && said.contains(&format!("All of the backup stands in the database {name}")),
        "{said}"
    );
    assert_eq!(server.query(&format!("SELECT COUNT(*) FROM {name}.orders")), "2\n");
    assert_eq!(server.query("SELECT COUNT(*) FROM shop.orders"), "2\n", "what was loaded is removed");
    server.query(&format!("DROP DATABASE {name}"));
    home.failing("restore latest --into shop --force", "load-filled#2=kill").output().unwrap();
    let name = beside().trim().to_owned();
    let out = home.agent("tend");
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains(&format!("all of the backup stands in the database {name}")), "{said}");
    assert_eq!((out.status.code(), folders()), (Some(1), 0));
    assert_eq!(server.query(&format!("SELECT COUNT(*) FROM {name}.orders")), "2\n");
    home.works("tend");

    // A new database has its name from the beginning.
    home.failing("restore latest --into new --database shop", "load-filled=kill").output().unwrap();
    let said = String::from_utf8(home.agent("tend").stdout).unwrap();
    assert!(said.contains("died while it filled the new database new, which is not whole"), "{said}");
    assert_eq!((home.works("tend").contains("new"), folders()), (false, 0));

    // A drop that would stop in the middle is not begun.
    server.query("CREATE TABLE new.child (id INT, FOREIGN KEY (id) REFERENCES shop.orders (id))");
    home.fails("restore latest --into shop --force", &["is as it was", "the table new.child at "]);
    assert_eq!(server.query("SELECT COUNT(*) FROM shop.orders"), "2\n");
}

#[test]
fn a_postgresql_database_is_replaced_in_one_moment_by_one_that_is_whole() {
    let server = Postgres::start();
    server.query("postgres", "CREATE DATABASE shop");
    server.query("postgres", "ALTER ROLE postgres PASSWORD 'x'");
    server.query("postgres", "CREATE ROLE owner LOGIN PASSWORD 'x'");
    server.query("postgres", "CREATE ROLE vendor");
    server.query("shop", "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1), (2)");
    server.query("shop", "ALTER TABLE orders OWNER TO vendor");
    server.query("postgres", "ALTER DATABASE shop OWNER TO owner");
    let home = Home::new("");
    let pass = home.secret("pass", "*:*:*:*:x\n");
    let config = fs::read_to_string(home.path().join("config.toml")).unwrap();
    let source = format!(
        "[job.shop.source.database]\ntype = 'postgres'\nbin_dir = '{}'\nhost = '127.0.0.1'\nport = {}\n\
         user = 'postgres'\npassfile = '{pass}'\ndatabases = ['shop']\n",
        bin().display(),
        server.port
    );
    fs::write(home.path().join("config.toml"), config + &source).unwrap();
    home.works("backup");
    server.query("shop", "INSERT INTO orders VALUES (3)");
    let live = || {
        let all = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
        format!(
            "{} {}",
            server.query("shop", "SELECT count(*) FROM orders").trim(),
            server.query("postgres", all)
        )
    };
    let before = live();
    let as_it_was = "the database shop is as it was";

    // The owner may drop it, and could not make it again.
    home.fails(
        &format!("restore latest --into shop --force --login-user owner --login-file {pass}"),
        &[as_it_was, "user owner may not make the database", "CREATEDB", "--login-file"],
    );
    home.fails(
        &format!("restore latest --into new --login-user owner --login-file {pass}"),
        &[
            "no database new was made: user owner may not make a database at 127.0.0.1",
            "CREATEDB",
            "--login-file",
        ],
    );
    // Somebody who owns nothing.
    server.query("postgres", "CREATE ROLE maker LOGIN CREATEDB PASSWORD 'x'");
    home.fails(
        &format!("restore latest --into shop --force --login-user maker --login-file {pass}"),
        &[as_it_was, "user maker does not own the database shop"],
    );
    home.fails(
        &format!("restore latest --into new --login-user maker --login-file {pass}"),
        &["no database new was made, and what was loaded beside it is removed again", "--no-owner"],
    );
    // An owner in the dump that is missing.
    server.query("shop", "ALTER TABLE orders OWNER TO postgres; DROP ROLE vendor");
    home.fails("restore latest --into shop --force", &[as_it_was, "removed again", "--no-owner"]);
    assert_eq!(live(), before);
    server.query("postgres", "CREATE ROLE vendor");
    // A dump that is damaged.
    let stored = home.stored("database.shop.pgdump.zst");
    let good = fs::read(&stored).unwrap();
    for end in [0, good.len() / 2, good.len() - 1] {
        fs::write(&stored, &good[..end]).unwrap();
        home.fails("restore latest --into shop --force", &[as_it_was]);
        assert_eq!(live(), before);
    }
    fs::write(&stored, &good).unwrap();
    // Somebody at work in it.
    let mut busy = server.tool("psql");
    busy.args(["-X", "-d", "shop", "-c", "SELECT pg_sleep(1000)"]).stdout(std::process::Stdio::null());
    let mut busy = busy.stderr(std::process::Stdio::null()).spawn().unwrap();
    while server.query("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'").trim()
        == "0"
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    home.fails("restore latest --into shop --force", &[as_it_was, "is in use (connections: 1)"]);
    server.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop'");
    busy.wait().unwrap();
    assert_eq!(live(), before);

    home.works("restore latest --into shop --force");
    assert_eq!(live(), before.replacen('3', "2", 1));
    // The only database of a backup needs no name.
    home.works("restore latest --into copy");
    assert_eq!(server.query("copy", "SELECT count(*) FROM orders"), "2\n");
    let owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'shop'";
    assert_eq!(server.query("postgres", owner), "owner\n");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_postgresql_restore_that_is_cut_short_leaves_nothing_under_the_final_name() {
    let server = Postgres::start();
    server.query("postgres", "CREATE DATABASE shop");
    server.query("shop", "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1), (2)");
    let home = Home::new(&format!(
        "[job.shop.source.database]\ntype = 'postgres'\nbin_dir = '{}'\nsocket = '{}'\nport = {}\nrun_as = '{USER}'\n",
        bin().display(),
        server.socket().display(),
        server.port
    ));
    home.works("backup");
    let all =
        || server.query("postgres", "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database");
    let before = all();
    home.failing("restore latest --into new --database shop", "load-filled=kill").output().unwrap();
    assert!(all().contains("backup_restore_new_") && !all().contains(",new,"), "{}", all());
    let said = home.works("tend");
    assert!(said.contains("of a restore into new that died is dropped"), "{said}");
    assert_eq!(all(), before);
    let said = home.interrupted("restore latest --into shop --force", "load-filled=pause");
    assert!(
        said.contains("the database shop is as it was, and what was loaded beside it is removed"),
        "{said}"
    );
    assert_eq!(all(), before);

    // The database `postgres`, which every server has, comes back by the words of RESTORE.txt.
    server.query("postgres", "CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1), (2)");
    home.works("backup");
    server.query("postgres", "DELETE FROM kept");
    let text = fs::read_to_string(home.stored("RESTORE.txt")).unwrap();
    let command = text.lines().find(|line| line.contains("pg_restore --clean")).unwrap();
    let stored = home.stored("database.postgres.pgdump.zst");
    let dump = Command::new("zstd").arg("-dc").arg(stored).output().unwrap().stdout;
    let mut restore = server.tool("pg_restore");
    restore.args(command.split("pg_restore ").nth(1).unwrap().split(' ')).stdin(std::process::Stdio::piped());
    let mut restore = restore.spawn().unwrap();
    std::io::Write::write_all(&mut restore.stdin.take().unwrap(), &dump).unwrap();
    assert!(restore.wait().unwrap().success(), "{command}");
    assert_eq!(server.query("postgres", "SELECT count(*) FROM kept"), "2\n");
}
