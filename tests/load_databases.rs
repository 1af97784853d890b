//! Dumps back into databases, by the real binary: MariaDB and PostgreSQL servers of the tests' own.
//!
//! `cargo test --features real-peers --test load_databases`
#![cfg(feature = "real-peers")]

mod peers;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

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
        assert!(!self.path().join(format!("state/loading-{}", std::process::id())).exists());
    }

    /// The stored file of a component.
    fn stored(&self, name: &str) -> std::path::PathBuf {
        let found =
            Command::new("find").arg(self.path().join("local")).args(["-name", name]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().trim().into()
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
    home.fails(
        "restore latest --into half --database shop",
        &["loading half: what was loaded of it is removed again"],
    );
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
