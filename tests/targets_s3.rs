//! Backups in a bucket, as copies and as the only place, through the program itself and a real S3 server.
#![cfg(feature = "real-peers")]

#[path = "support/s3.rs"]
mod s3;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use backup_agent::target::remote::Store as _;
use backup_agent::target::remote::s3::S3Settings;
use s3::{S3Server, secret_file};
use serde_json::{Value, json};
use world::{World, system};

/// A world whose job copies to a bucket, or has nothing but it.
fn world(server: &S3Server, targets: &str, user: &str, bucket: &str, lines: &str) -> World {
    let world = World::new();
    let table = server.table("cloud", user, bucket, world.root(), lines);
    let path = world.path("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text.replace("[job.web]\n", &format!("{table}\n[job.web]\n"))).unwrap();
    world.edit_config(r#"targets = ["local"]"#, &format!("targets = [{targets}]"));
    world
}

const BOTH: &str = r#""local", "cloud""#;
const CLOUD: &str = r#""cloud""#;

fn at_cloud(world: &World) -> Vec<Value> {
    world.list().into_iter().filter(|copy| copy["target"] == "cloud").collect()
}

fn restored(world: &World, arguments: &[&str]) -> PathBuf {
    let to = world.path("restored");
    let _ = fs::remove_dir_all(&to);
    let mut all = vec!["restore", "latest", "--target", "cloud", "--to", to.to_str().unwrap()];
    all.extend(arguments);
    world.run(&all).expect(0);
    let found = system("find", &[to.to_str().unwrap(), "-type", "d", "-name", "src"]);
    PathBuf::from(found.lines().next().unwrap())
}

fn same_tree(a: &Path, b: &Path) {
    system("diff", &["-r", "--no-dereference", a.to_str().unwrap(), b.to_str().unwrap()]);
}

/// Keys below the prefix of the targets.
fn keys(server: &S3Server, bucket: &str) -> Vec<String> {
    let store = S3Server::store(S3Settings { prefix: "hosts/all".to_owned(), ..server.settings(bucket) });
    let mut folders = vec![String::new()];
    let mut keys = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in store.list(&folder).unwrap() {
            let key = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            if entry.length.is_some() { keys.push(key) } else { folders.push(key) }
        }
    }
    keys.sort();
    keys
}

fn manifests(server: &S3Server, bucket: &str) -> usize {
    keys(server, bucket).iter().filter(|key| key.ends_with("/manifest.json")).count()
}

#[test]
fn copies_in_a_bucket_are_verified_restored_pruned_and_known_again_from_the_bucket_alone() {
    let server = S3Server::start();
    let world = world(&server, BOTH, "admin", "backups", "keep = { last = 2 }");
    // Longer than one part, and than what is read ahead.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    world.write("src/media/film.bin", noise.take(24 << 20).collect::<Vec<u8>>());
    let out = world.run(&["target", "init", "cloud"]).expect(0);
    assert!(out.all().contains("s3://backups/hosts/all/.backup-agent-target.json"), "{}", out.all());
    for _ in 0..3 {
        world.change();
        let out = world.backup().expect(0);
        assert_eq!(out.json()["outcome"], "success", "{}", out.all());
    }
    let copies = at_cloud(&world);
    assert_eq!(copies.len(), 2, "retention kept two of three: {copies:?}");
    assert!(copies.iter().all(|copy| copy["status"] == "verified"), "{copies:?}");
    assert_eq!(manifests(&server, "backups"), 2);
    let hidden = |key: &String| key.split('/').any(|part| part.starts_with('.'));
    let marks: Vec<String> = keys(&server, "backups").into_iter().filter(hidden).collect();
    assert_eq!(marks, [".backup-agent-target.json"], "no mark of an unfinished backup is left");
    world.run(&["verify", "latest", "--target", "cloud"]).expect(0);

    // One small file: the directory of the index and one frame, not the whole.
    let stored = copies[0]["bytes"].as_u64().unwrap();
    server.forget();
    let found = restored(&world, &["--path", world.path("src/config/app.php").to_str().unwrap()]);
    let content = fs::read(world.path("src/config/app.php")).unwrap();
    assert_eq!(fs::read(found.join("config/app.php")).unwrap(), content);
    assert!(!found.join("media").exists());
    assert!(server.given() < stored / 2, "{} of {stored} bytes were read", server.given());
    let found = restored(&world, &[]);
    same_tree(&world.path("src"), &found);

    // The state is lost: the bucket knows.
    fs::remove_dir_all(world.path("state")).unwrap();
    let out = world.run(&["target", "scan", "cloud", "--adopt"]).expect(0);
    assert!(out.all().contains("2 backups recorded"), "{}", out.all());
    let ids = |list: &[Value]| list.iter().map(|copy| copy["run_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&at_cloud(&world)), ids(&copies));
    same_tree(&world.path("src"), &restored(&world, &[]));
    // Damage there is found.
    let store = S3Server::store(S3Settings { prefix: "hosts/all".to_owned(), ..server.settings("backups") });
    let location = copies[0]["location"].as_str().unwrap();
    store.delete(&format!("{location}/application.tar.zst")).unwrap();
    let out = world.run(&["verify", "latest", "--target", "cloud"]);
    assert_ne!(out.code, 0);
    assert!(out.all().contains("application.tar.zst"), "{}", out.all());
}

#[test]
fn a_bucket_alone_is_a_primary_target_like_another() {
    let server = S3Server::start();
    let world = world(&server, CLOUD, "admin", "backups", "keep = { last = 1 }");
    for _ in 0..2 {
        world.change();
        world.backup().expect(0);
    }
    let copies = at_cloud(&world);
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(copies[0]["status"], "verified");
    assert_eq!(manifests(&server, "backups"), 1);
    same_tree(&world.path("src"), &restored(&world, &[]));
    // A run that dies leaves a mark, and the next one removes it with what it says.
    #[cfg(feature = "failpoints")]
    {
        world.run_at("publish=kill", &["backup", "web"]);
        assert!(keys(&server, "backups").iter().any(|key| key.starts_with(".partial-")));
        world.backup().expect(0);
        let left = keys(&server, "backups");
        assert!(!left.iter().any(|key| key.contains(".partial-")), "{left:?}");
        assert_eq!(manifests(&server, "backups"), 1);
    }
    // Its files are looked at there.
    let out = world.run(&["check"]);
    assert!(out.all().contains("OK web") && !out.all().contains("CRITICAL web"), "{}", out.all());
}

#[test]
fn what_is_wrong_with_key_secret_region_or_bucket_is_said_and_the_backup_is_made_all_the_same() {
    let server = S3Server::start();
    let (id, _) = server.key("admin");
    for (from, to, expected) in [
        (id.as_str(), "AKIANOBODY", "InvalidAccessKeyId"),
        ("secret-admin", "secret-wrong", "check the secret access key"),
        ("eu-central-1", "us-east-1", "the bucket is in the region eu-central-1"),
        (r#"bucket = "backups""#, r#"bucket = "nosuch""#, "NoSuchBucket"),
    ] {
        let world = world(&server, BOTH, "admin", "backups", "");
        secret_file(world.root(), "wrong", "wrong");
        world.edit_config(from, to);
        let out = world.backup();
        assert_eq!(out.code, 4, "{expected}: {}", out.all());
        assert!(out.all().contains(expected), "{expected}: {}", out.all());
        assert_eq!(world.stored("local").len(), 1);
    }
}

#[test]
fn a_clock_that_is_wrong_is_told_with_both_clocks() {
    let server = S3Server::start();
    let world = world(&server, CLOUD, "admin", "backups", "");
    let out = world::output(world.under(&["faketime", "-f", "-3h"], &["backup", "web", "--json"]));
    assert_eq!(out.code, 1, "{}", out.all());
    assert!(
        out.all().contains("RequestTimeTooSkewed") && out.all().contains("this machine's 20"),
        "{}",
        out.all()
    );
    assert!(keys(&server, "backups").is_empty());
}

#[test]
fn a_certificate_is_trusted_only_by_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    system(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            certificate.to_str().unwrap(),
        ],
    );
    let server = S3Server::start_with(Some((&certificate, &key)));
    let unknown = world(&server, BOTH, "admin", "backups", "");
    let out = unknown.backup().expect(4);
    assert!(out.all().contains("an authority this machine does not know"), "{}", out.all());
    assert!(out.all().contains("`ca_file`") && out.all().contains("stopped"), "{}", out.all());
    let lines = format!("ca_file = {:?}", certificate.to_str().unwrap());
    let known = world(&server, BOTH, "admin", "backups", &lines);
    known.backup().expect(0);
    assert_eq!(at_cloud(&known)[0]["status"], "verified");
}

#[test]
fn what_is_locked_stays_and_is_no_error() {
    let server = S3Server::start();
    let lines = "keep = { last = 1 }\nobject_lock = \"compliance\"\nlock_for = \"2days\"";
    let world = world(&server, BOTH, "admin", "locked", lines);
    for _ in 0..2 {
        world.change();
        world.backup().expect(0);
    }
    assert_eq!(manifests(&server, "locked"), 2, "both are locked");
    assert_eq!(at_cloud(&world).len(), 2, "and still listed");
    same_tree(&world.path("src"), &restored(&world, &[]));
}

#[test]
fn credentials_that_may_only_write_suffice_and_nothing_else_is_asked_for() {
    let server = S3Server::start();
    let world = world(&server, BOTH, "writer", "backups", "write_only = true");
    server.forget();
    world.backup().expect(0);
    let copies = at_cloud(&world);
    assert_eq!(copies[0]["status"], "complete", "nothing was read back: {copies:?}");
    let show = world.run(&["show", "latest", "--log"]).expect(0).all();
    let why = "not read back: the target is write-only";
    assert!(show.contains(&format!("the copy at cloud is there, {why}")), "{show}");
    assert!(show.contains("not read back at cloud: the target is write-only"), "{show}");
    let location = copies[0]["location"].as_str().unwrap();
    assert!(location.ends_with(copies[0]["run_id"].as_str().unwrap()), "{location}");
    let refused: Vec<Value> = server.requests().into_iter().filter(|r| r["status"] == 403).collect();
    assert!(refused.iter().all(|r| r["query"].as_str().unwrap().contains("max-keys=1")), "{refused:?}");
    let deletes = server.requests().into_iter().filter(|r| r["method"] == "DELETE").count();
    assert_eq!(deletes, 0);
    // Reading is refused with its reason; rounds and checks leave it alone.
    let out = world.run(&["verify", "latest", "--target", "cloud"]);
    assert!(out.code != 0 && out.all().contains("write-only"), "{}", out.all());
    let out = world.run(&["target", "scan", "cloud"]);
    assert!(out.code != 0 && out.all().contains("write-only"), "{}", out.all());
    let out = world.run(&["check"]);
    assert!(!out.all().contains("CRITICAL web") && !out.all().contains("write-only"), "{}", out.all());

    // From a host that may read, it is all there.
    let admin = world_of_admin(&server);
    let out = admin.run(&["target", "scan", "cloud", "--json"]).expect(0);
    assert_eq!(out.json()["backups"].as_array().unwrap().len(), 1);

    // A copy whose attempt broke off is made by the next one, though part of it stands there already.
    world.change();
    server.options(&json!({"busy": 0}));
    let (out, fired) = world.run_at("cloud:rename=error", &["backup", "web", "--json"]);
    assert!(fired && out.code == 4, "{}", out.all());
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(manifests(&server, "backups"), 2);
}

fn world_of_admin(server: &S3Server) -> World {
    let admin = World::new();
    let table = server.table("cloud", "admin", "backups", admin.root(), "");
    let path = admin.path("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text.replace("[job.web]\n", &format!("{table}\n[job.web]\n"))).unwrap();
    admin
}

#[test]
fn what_a_write_only_or_locked_target_cannot_do_is_refused_in_the_configuration() {
    let server = S3Server::start();
    let cases = [
        (BOTH, "write_only = true\nkeep = { last = 1 }", "nothing can be removed where `write_only` is set"),
        (CLOUD, "write_only = true", "a backup is read back there before it counts"),
        (BOTH, "object_lock = \"compliance\"", "nothing says how long objects are locked"),
        (BOTH, "lock_for = \"2days\"", "no effect without `object_lock`"),
    ];
    for (targets, lines, expected) in cases {
        let world = world(&server, targets, "admin", "backups", lines);
        let out = world.run(&["config", "check"]).expect(2);
        assert!(out.all().contains(expected), "{expected}: {}", out.all());
    }
}
