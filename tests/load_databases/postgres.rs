//! Dumps of PostgreSQL.

use std::fs;
use std::process::{Command, Stdio};

use crate::home::Home;
use crate::peers::postgres::{Postgres, USER, bin};

/// A job with the databases of a server.
fn home(server: &Postgres) -> Home {
    Home::new(&format!(
        "[job.shop.source.database]\ntype = 'postgres'\nbin_dir = '{}'\nsocket = '{}'\nport = {}\nrun_as = '{USER}'\n",
        bin().display(),
        server.socket().display(),
        server.port
    ))
}

#[test]
fn a_postgresql_database_comes_back_under_another_name() {
    let server = Postgres::start();
    server.query("postgres", "CREATE DATABASE shop");
    server.query("shop", "CREATE TABLE orders (id int PRIMARY KEY, note text)");
    server.query("shop", "INSERT INTO orders VALUES (1, 'Grüße'), (2, 'two')");
    let home = home(&server);
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
    busy.args(["-X", "-d", "shop", "-c", "SELECT pg_sleep(1000)"]).stdout(Stdio::null());
    let mut busy = busy.stderr(Stdio::null()).spawn().unwrap();
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
    let home = home(&server);
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

    // Somebody who looks into it for a moment is waited for.
    let (mut psql, mut visitor) = (server.tool("psql"), None);
    psql.args(["-X", "-d", "shop", "-c", "SELECT pg_sleep(6)"]).stdout(Stdio::null());
    let out = home.paused("restore latest --into shop --force", "load-filled=pause", |_| {
        visitor = Some(psql.spawn().unwrap());
        let there = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'";
        while server.query("postgres", there).trim() == "0" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    visitor.unwrap().wait().unwrap();
    assert!(out.status.success(), "{out:?}");
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
    restore.args(command.split("pg_restore ").nth(1).unwrap().split(' ')).stdin(Stdio::piped());
    let mut restore = restore.spawn().unwrap();
    std::io::Write::write_all(&mut restore.stdin.take().unwrap(), &dump).unwrap();
    assert!(restore.wait().unwrap().success(), "{command}");
    assert_eq!(server.query("postgres", "SELECT count(*) FROM kept"), "2\n");
}
