//! The S3 store itself against a real server: parts, conditions, answers that are lost or cut, what is left behind.
#![cfg(feature = "real-peers")]

#[path = "support/s3.rs"]
mod s3;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use backup_agent::clock::{Clock as _, ManualClock, SystemClock};
use backup_agent::model::Secret;
use backup_agent::target::is_permanent;
use backup_agent::target::remote::s3::{Limits, Lock, LockMode, PartPlan, S3Settings, S3Store, Tier};
use backup_agent::target::remote::{AlreadyThere, Kept, Mode, Store};
use s3::S3Server;
use serde_json::json;

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

fn write(store: &S3Store, key: &str, bytes: &[u8], mode: Mode) -> anyhow::Result<()> {
    let mut upload = store.upload(key, mode)?;
    for piece in bytes.chunks(1000) {
        upload.write_all(piece)?;
    }
    upload.finish(bytes.len() as u64)
}

fn read(store: &S3Store, key: &str) -> Option<Vec<u8>> {
    let object = store.open(key).unwrap()?;
    let mut bytes = Vec::new();
    object.stream(0).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(object.length().unwrap(), bytes.len() as u64);
    Some(bytes)
}

/// A store that cuts early: parts of 16 KiB, then of 40 KiB, then larger ones that wait in files.
fn small_parts(server: &S3Server, bucket: &str) -> S3Settings {
    let tier = |parts, kib: u64, in_file| Tier { parts, bytes: kib << 10, in_file };
    let plan = PartPlan {
        tiers: vec![tier(3, 16, false), tier(2, 40, false), tier(3, 100, true)],
        in_flight: 48 << 10,
        folder: std::env::temp_dir(),
    };
    let limits = Limits { pause: Duration::from_millis(5), ..Limits::default() };
    S3Settings { plan, limits, prefix: "a/b ä".to_owned(), ..server.settings(bucket) }
}

fn parts_sent(server: &S3Server) -> usize {
    let is_part = |r: &&serde_json::Value| r["query"].as_str().unwrap().contains("partNumber");
    server.requests().iter().filter(is_part).filter(|r| r["status"] == 200).count()
}

#[test]
fn objects_of_every_length_are_stored_in_the_parts_they_need_and_read_back() {
    let server = S3Server::start();
    let store = S3Server::store(small_parts(&server, "backups"));
    store.probe().unwrap();
    // Nothing, one request, exactly a part, parts of every kind, and the last one short.
    for (length, parts) in [(0, 0), (10, 0), (16 << 10, 0), (40 << 10, 3), (300_000, 7)] {
        server.forget();
        let (key, bytes) = (format!("folder/x {length}+.zst"), noise(length));
        write(&store, &key, &bytes, Mode::New).unwrap();
        assert_eq!(parts_sent(&server), parts, "{length}");
        assert!(read(&store, &key).unwrap() == bytes, "{length}");
    }
    let object = store.open("folder/x 300000+.zst").unwrap().unwrap();
    server.forget();
    assert_eq!(object.read_exact_at(70_000, 5).unwrap(), noise(300_000)[70_000..70_005]);
    assert_eq!(server.given(), 5);
    assert!(object.read_exact_at(299_999, 2).is_err());
    assert_eq!(read(&store, "folder/nothing"), None);

    let names = |entries: Vec<backup_agent::target::remote::Entry>| {
        entries.into_iter().map(|e| (e.name, e.length)).collect::<Vec<_>>()
    };
    assert_eq!(names(store.list("").unwrap()), [("folder".to_owned(), None)]);
    assert_eq!(names(store.list("folder").unwrap())[1], ("x 10+.zst".to_owned(), Some(10)));
    assert!(store.list("fold").unwrap().is_empty(), "a part of a name is no folder");
    // More than the plan has is refused, and nothing stays of it.
    let error = write(&store, "folder/long", &noise(500_000), Mode::New).unwrap_err();
    assert!(format!("{error:#}").contains("longer than stores take"), "{error:#}");
    assert_eq!(read(&store, "folder/long"), None);
    store.delete("folder/x 10+.zst").unwrap();
    store.delete("folder/x 10+.zst").unwrap();
    assert_eq!(read(&store, "folder/x 10+.zst"), None);
}

#[test]
fn an_object_that_is_there_is_not_written_over() {
    let server = S3Server::start();
    let store = S3Server::store(small_parts(&server, "backups"));
    for length in [10, 100_000] {
        let key = format!("k{length}");
        for unknown in [false, true] {
            // A store of its own: one that learned that conditions are unknown does not ask again.
            let store = S3Server::store(small_parts(&server, "backups"));
            server.options(&json!({"unknown_conditions": unknown}));
            write(&store, &key, &vec![b'a'; length], Mode::New).unwrap();
            let error = write(&store, &key, &vec![b'b'; length], Mode::New).unwrap_err();
            assert!(error.chain().any(|c| c.is::<AlreadyThere>()), "{unknown} {error:#}");
            assert!(read(&store, &key).unwrap() == vec![b'a'; length], "{unknown}");
            write(&store, &key, &vec![b'b'; length], Mode::Replace).unwrap();
            assert!(read(&store, &key).unwrap() == vec![b'b'; length], "{unknown}");
            store.delete(&key).unwrap();
        }
    }
    assert!(store.list("").unwrap().is_empty());
}

#[test]
fn what_is_refused_changed_or_lost_on_the_way_is_sent_again() {
    let server = S3Server::start();
    for option in ["busy", "corrupt", "lose"] {
        for length in [1000, 100_000] {
            let store = S3Server::store(small_parts(&server, "backups"));
            let (key, bytes) = (format!("{option}/{length}"), noise(length));
            // Counted from the beginning of the server, so a later step asks for more.
            let times = if length == 1000 { 2 } else { 4 };
            server.options(&json!({ option: times }));
            write(&store, &key, &bytes, Mode::New).unwrap_or_else(|e| panic!("{option} {length}: {e:#}"));
            assert!(read(&store, &key).unwrap() == bytes, "{option} {length}");
        }
    }
    let statuses: Vec<u64> = server.requests().iter().filter_map(|r| r["status"].as_u64()).collect();
    for status in [503, 400, 500] {
        assert!(statuses.iter().filter(|s| **s == status).count() >= 4, "{status}: {statuses:?}");
    }
    // Busy for good: given up after so many attempts.
    server.options(&json!({"busy": 1000}));
    let store = S3Server::store(small_parts(&server, "backups"));
    let error = write(&store, "never", b"x", Mode::New).unwrap_err();
    assert!(format!("{error:#}").contains("SlowDown") && !is_permanent(&error), "{error:#}");
}

#[test]
fn an_answer_that_is_cut_is_an_error_and_never_taken_for_the_end() {
    let server = S3Server::start();
    let store = S3Server::store(S3Settings {
        limits: Limits { idle: Duration::from_secs(20), ..Limits::default() },
        ..server.settings("backups")
    });
    write(&store, "k", &noise(50_000), Mode::New).unwrap();
    let object = store.open("k").unwrap().unwrap();
    server.options(&json!({"cut": 2}));
    assert!(object.read_exact_at(0, 50_000).is_err());
    let mut bytes = Vec::new();
    assert!(object.stream(10).unwrap().read_to_end(&mut bytes).is_err());
    assert!(bytes.len() < 49_990);
    assert_eq!(object.read_exact_at(0, 50_000).unwrap(), noise(50_000));
    // Another object under the same name is not what was opened.
    write(&store, "k", &[1; 50_000], Mode::Replace).unwrap();
    assert!(object.read_exact_at(0, 10).is_err());
}

#[test]
fn uploads_that_are_not_finished_leave_nothing() {
    let server = S3Server::start();
    let store = S3Server::store(small_parts(&server, "backups"));
    let given_up = |server: &S3Server| {
        let is_abort = |r: &&serde_json::Value| {
            r["method"] == "DELETE" && r["query"].as_str().unwrap().contains("uploadId") && r["status"] == 204
        };
        server.requests().iter().filter(is_abort).count()
    };
    let mut upload = store.upload("run/dropped", Mode::New).unwrap();
    upload.write_all(&noise(60_000)).unwrap();
    drop(upload);
    assert_eq!(given_up(&server), 1);
    // One whose program was killed.
    for key in ["run/killed", "run-2/other"] {
        let mut upload = store.upload(key, Mode::New).unwrap();
        upload.write_all(&noise(60_000)).unwrap();
        std::mem::forget(upload);
    }
    store.discard("run").unwrap();
    assert_eq!(given_up(&server), 2);
    store.discard("run").unwrap();
    assert_eq!(given_up(&server), 2, "only what is below the folder");
    // A length that is not what was announced makes nothing visible.
    let mut upload = store.upload("run/short", Mode::New).unwrap();
    upload.write_all(b"abc").unwrap();
    assert!(upload.finish(4).is_err());
    assert!(store.list("run").unwrap().is_empty());
}

#[test]
fn listings_go_on_over_pages() {
    let server = S3Server::start();
    let store = S3Server::store(server.settings("many"));
    assert_eq!(store.find("manifest.json").unwrap().unwrap().len(), 1005);
    assert_eq!(store.list("f").unwrap().len(), 1005);
    let below = S3Server::store(S3Settings { prefix: "f/0007".to_owned(), ..server.settings("many") });
    assert_eq!(below.list("").unwrap().len(), 1);
    assert!(
        below.find("manifest.json").unwrap().unwrap().is_empty(),
        "a manifest at the root is in no folder"
    );
}

#[test]
fn locked_objects_say_until_when_and_versions_go_with_their_object() {
    let server = S3Server::start();
    let plain = S3Server::store(server.settings("locked"));
    for content in [b"a", b"b"] {
        write(&plain, "k", content, Mode::Replace).unwrap();
    }
    plain.delete("k").unwrap();
    assert_eq!(read(&plain, "k"), None);
    let versions = |r: &&serde_json::Value| r["query"].as_str().unwrap().contains("versionId=");
    assert_eq!(server.requests().iter().filter(versions).count(), 3, "two versions and what hid them");

    let lock = Some(Lock { mode: LockMode::Compliance, period: Duration::from_secs(3600) });
    let locking = S3Server::store(S3Settings { lock, ..small_parts(&server, "locked") });
    for (key, length) in [("short", 10), ("long", 100_000)] {
        write(&locking, key, &noise(length), Mode::New).unwrap();
        let until = locking.locked_until(key).unwrap().unwrap();
        let left = (until - SystemClock.now()).num_minutes();
        assert!((58..=60).contains(&left), "{key} {until}");
        let error = locking.delete(key).unwrap_err();
        assert_eq!(error.downcast_ref::<Kept>().unwrap().until, Some(until));
        assert!(read(&locking, key).is_some(), "nothing happened");
        // Out of sight, since that is all the store allows.
        locking.put_away(key).unwrap();
        assert_eq!(read(&locking, key), None);
    }
    // Marks have to go, and are not locked.
    write(&locking, ".partial-x", b"m", Mode::Replace).unwrap();
    assert_eq!(locking.locked_until(".partial-x").unwrap(), None);
    // A bucket without Object Lock says so.
    let wrong = S3Server::store(S3Settings { lock, ..server.settings("backups") });
    let error = write(&wrong, "k", b"x", Mode::New).unwrap_err();
    assert!(format!("{error:#}").contains("needs a bucket that was made with Object Lock"), "{error:#}");
    assert!(is_permanent(&error));
}

#[test]
fn what_needs_a_person_is_told_as_such_and_with_what_to_do() {
    let server = S3Server::start();
    let good = server.settings("backups");
    let (id, _) = server.key("admin");
    let late = ManualClock::new(SystemClock.now() - chrono::TimeDelta::hours(3));
    let cases = [
        (S3Settings { access_key_id: "AKIANOBODY".to_owned(), ..good.clone() }, "check `access_key_id`"),
        (
            S3Settings { secret_access_key: Secret::new("wrong"), ..good.clone() },
            "check the secret access key",
        ),
        (S3Settings { region: "us-east-1".to_owned(), ..good.clone() }, "is in the region eu-central-1"),
        (S3Settings { clock: Arc::new(late), ..good.clone() }, "the store's clock says 20"),
        (S3Settings { bucket: "nosuch".to_owned(), ..good.clone() }, "create the bucket"),
    ];
    for (settings, expected) in cases {
        let store = S3Server::store(settings);
        let failures = [
            store.probe().map(drop).unwrap_err(),
            write(&store, "k", b"x", Mode::New).unwrap_err(),
            store.list("").map(drop).unwrap_err(),
            store.open("k").map(drop).err().unwrap_or_else(|| anyhow::anyhow!("{expected}")),
        ];
        for error in failures {
            let text = format!("{error:#}");
            assert!(text.contains(expected), "{expected}: {text}");
            assert!(!text.contains(&server.key("admin").1), "{text}");
        }
        let error = store.probe().unwrap_err();
        assert!(is_permanent(&error), "{error:#}");
        assert!(format!("{error:#}").contains(&server.endpoint), "{error:#}");
    }
    assert!(!id.is_empty());
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let limits = Limits { idle: Duration::from_millis(100), attempts: 1, ..Limits::default() };
    let settings = S3Settings {
        endpoint: Some(endpoint.clone()),
        limits,
        ..S3Settings::new("b", "id", Secret::new("secret"))
    };
    let store = S3Store::new(settings.clone()).unwrap();
    for error in
        [store.probe().map(drop).unwrap_err(), write(&store, "k", &noise(100), Mode::New).unwrap_err()]
    {
        let text = format!("{error:#}");
        assert!(text.contains("nothing moved for") && text.contains(&endpoint), "{text}");
        assert!(!is_permanent(&error));
    }
    drop(listener);
    let error = S3Store::new(settings).unwrap().probe().unwrap_err();
    assert!(format!("{error:#}").contains("refused") && !is_permanent(&error), "{error:#}");
}
