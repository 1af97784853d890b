//! A whole server: database, files and system state of a Laravel application, against a real MariaDB.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::port;
use crate::world::{Guard, World, below, until};

const PASSWORD: &str = "canary p#w \"x\" $HOME";

const SHOP: &str = r#"
CREATE DATABASE shop CHARACTER SET utf8mb4;
USE shop;
CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, label VARCHAR(200), raw VARBINARY(300), at TIMESTAMP NULL) ENGINE=InnoDB;
INSERT INTO orders (label, raw, at) VALUES ('Grüße 🦀', x'00ff270a5c22', '2026-07-01 12:00:00'), (NULL, NULL, NULL);
INSERT INTO orders (label, raw) SELECT CONCAT('row ', seq), UNHEX(SHA2(seq, 256)) FROM seq_1_to_3000;
CREATE VIEW totals AS SELECT COUNT(*) AS n FROM orders;
DELIMITER //
CREATE FUNCTION twice(n INT) RETURNS INT DETERMINISTIC RETURN n * 2//
CREATE TRIGGER stamp BEFORE INSERT ON orders FOR EACH ROW BEGIN SET NEW.at = NOW(); END//
DELIMITER ;
"#;

/// A server of its own below the world's folder, ended with this value.
struct Server {
    _process: Guard,
    port: u16,
}

impl Server {
    fn start(world: &World) -> Self {
        let user = world.sh("id -un").trim().to_owned();
        // A server that starts removes temporary tables it finds, also those of another that starts at the same moment:
        // each has a folder of its own for them.
        world.sh(&format!(
            "export TMPDIR=$PWD; mariadb-install-db --no-defaults --auth-root-authentication-method=socket --skip-test-db \
             --datadir=$PWD/data-dir --user={user} >/dev/null 2>&1"
        ));
        let port = port::free();
        let process = world
            .shell(&format!(
                "export TMPDIR=$PWD; exec mariadbd --no-defaults --datadir=$PWD/data-dir --socket=$PWD/socket --pid-file=$PWD/pid \
                 --port={port} --user={user} --bind-address=127.0.0.1 --innodb-buffer-pool-size=32M \
                 --innodb-flush-log-at-trx-commit=0"
            ))
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
            .stdout(Stdio::null())
            .stderr(fs::File::create(world.path("mariadbd.log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self { _process: Guard(process), port };
        // Restores are made by the commands of RESTORE.txt, which say `mysql`.
        world.write(
            "bin/mysql",
            &format!(
                "#!/bin/sh\nexec mariadb --no-defaults --default-character-set=utf8mb4 --socket={}/socket --user=root \"$@\"\n",
                world.root()
            ),
        );
        fs::set_permissions(world.path("bin/mysql"), fs::Permissions::from_mode(0o755)).unwrap();
        until("mariadbd answers", || {
            world.shell("bin/mysql -e 'SELECT 1'").output().is_ok_and(|out| out.status.success())
        });
        server.load(world, SHOP);
        server.load(
            world,
            &format!(
                "CREATE USER backup@localhost IDENTIFIED BY '{PASSWORD}';\n\
                 GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, RELOAD ON *.* TO backup@localhost;\n"
            ),
        );
        server
    }

    fn load(&self, world: &World, sql: &str) {
        let mut child = Command::new(world.path("bin/mysql")).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn fingerprint(&self, world: &World, database: &str) -> String {
        world.sh(&format!(
            "bin/mysql -N -e \"USE {database}; CHECKSUM TABLE orders EXTENDED; SELECT id, label, HEX(raw), \
             UNIX_TIMESTAMP(at) FROM orders ORDER BY id; SELECT * FROM totals; SELECT twice(21); \
             SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS \
             WHERE TRIGGER_SCHEMA = '{database}'\" | sed 's/^{database}\\././'"
        ))
    }
}

const SYSTEM: &str = r#"
[job.shop.source.system-state]
type = "system"
paths = ["{}/etc"]
"#;

fn world() -> World {
    let world = World::empty();
    world.data();
    world.write("etc/nginx/site.conf", "server {}\n");
    fs::create_dir(world.path("local")).unwrap();
    world
}

#[test]
fn a_laravel_application_is_backed_up_with_its_database_and_restored_beside_itself() {
    let world = world();
    let server = Server::start(&world);
    world.write(
        "data/.env",
        &format!(
            "APP_NAME=Shop\nDB_CONNECTION=mysql\nDB_HOST=localhost\nDB_SOCKET={}/socket\nDB_DATABASE=shop\n\
             DB_USERNAME=backup\nDB_PASSWORD='{PASSWORD}'\n",
            world.root()
        ),
    );
    fs::set_permissions(world.path("data/.env"), fs::Permissions::from_mode(0o640)).unwrap();
    world.write("data/node_modules/left-pad/index.js", "left out");
    world.write("data/storage/framework/views/x.php", "left out");
    world.write("data/storage/framework/views/.gitignore", "*\n");
    world.write("data/vendor/autoload.php", "<?php\n");
    world.configure(&format!(
        r#"
timezone = "Europe/Berlin"
host = "web1"
state_dir = "{{}}/state"
[target.local]
type = "directory"
path = "{{}}/local"
[job.shop]
schedule = "0 3,11,19 * * *"
trigger = "external"
targets = ["local"]
preset = "laravel"
preset_path = "{{}}/data"
{SYSTEM}"#
    ));
    world.agent("config check").exits(0);
    let made = world.agent("backup --json").exits(0).json();
    let names: Vec<&str> =
        made["components"].as_array().unwrap().iter().map(|c| c["file"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["database.sql.zst", "application.tar.zst", "system-state.tar.zst"],
        "databases come first"
    );
    world.agent("verify --deep").exits(0);

    // Files: what the application makes again by itself is left out.
    world.agent("restore latest --to r").exits(0);
    let app = below("r/application", &world, "data");
    assert!(!world.path(&app).join("node_modules/left-pad").exists());
    assert!(!world.path(&app).join("storage/framework/views/x.php").exists());
    assert!(world.path(&app).join("storage/framework/views/.gitignore").exists());
    assert!(world.path(&app).join("vendor/autoload.php").exists());
    assert_eq!(world.read(below("r/system-state", &world, "etc/nginx/site.conf")), "server {}\n");
    let listed = world.sh("cd r/system-state; find . -type f");
    assert!(listed.contains("package") || listed.contains("dpkg"), "package selections: {listed}");

    // The database: what the agent restores is what zstd restores, and it goes into a second database.
    let folder = world.backups("local").pop().unwrap();
    world.sh(&format!("zstd -dc '{}/database.sql.zst' | cmp - r/database/database.sql", folder.display()));
    let before = server.fingerprint(&world, "shop");
    world.sh(&format!(
        "zstd -dc '{}/database.sql.zst' | sed 's/`shop`/`shop2`/g' | bin/mysql",
        folder.display()
    ));
    assert_eq!(server.fingerprint(&world, "shop2"), before);
    // And back into its own place by the words of RESTORE.txt, after it was lost.
    let text = fs::read_to_string(folder.join("RESTORE.txt")).unwrap();
    let command = text.lines().find(|line| line.trim_end().ends_with("| mysql")).unwrap();
    server.load(&world, "DROP DATABASE shop; CREATE DATABASE shop");
    world.sh(&format!("PATH=$PWD/bin:$PATH; cd '{}'; {command}", folder.display()));
    assert_eq!(server.fingerprint(&world, "shop"), before);

    // The password is nowhere it was not before.
    let spread = world.shell(&format!("grep -rlF -- '{PASSWORD}' state local; true")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&spread.stdout), "");
    assert!(!world.agent("show latest --log --json").out.contains("canary"));
    assert!(!world.agent("config show").out.contains("canary"));

    // A wrong password is said with user and place, and not shown.
    world.write("data/.env", &world.read("data/.env").replace(PASSWORD, "wrong-passw0rd"));
    let refused = world.agent("backup").exits(1);
    assert!(
        refused.out.contains("component database: ") && refused.out.contains("backup"),
        "{}",
        refused.out
    );
    assert!(
        refused.out.to_lowercase().contains("password") || refused.out.contains("Access denied"),
        "{}",
        refused.out
    );
    assert!(!format!("{refused:?}").contains("wrong-passw0rd"), "{refused:?}");
    world.write("data/.env", &world.read("data/.env").replace("wrong-passw0rd", PASSWORD));

    // The login one by one, over TCP, and a database that is not there.
    world.write("password", PASSWORD);
    fs::set_permissions(world.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
    let config = world.read("config.toml");
    world.write(
        "config.toml",
        &format!(
            "{config}\n[job.shop.source.database]\ntype = \"mysql\"\ndatabases = [\"nope\"]\nhost = \"127.0.0.1\"\n\
             port = {}\nuser = \"backup\"\npassword_file = \"{}/password\"\n",
            server.port,
            world.root()
        ),
    );
    server.load(
        &world,
        &format!(
            "CREATE USER backup@127.0.0.1 IDENTIFIED BY '{PASSWORD}';\n\
             GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, RELOAD ON *.* TO backup@127.0.0.1;\n"
        ),
    );
    world.agent("backup").exits(1).says(&["nope", "shop"]);
    world.write("config.toml", &world.read("config.toml").replace("\"nope\"", "\"shop\", \"shop2\""));
    world.agent("backup").exits(0);

    // Without its dump program nothing is begun, and what to install is said.
    world.write("config.toml", &format!("{}program = \"no-such-dump\"\n", world.read("config.toml")));
    world.agent("backup").exits(1).says(&[
        "component database: ",
        "the dump program no-such-dump was not found or is not executable: install the Debian package mariadb-client",
    ]);
    assert_eq!(world.backups("local").len(), 2, "failures left something, or took something");
}
