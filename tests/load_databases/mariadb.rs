//! Dumps of MariaDB.

use std::fs;

use crate::home::Home;
use crate::peers::mariadb::MariaDb;

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
