//! What every target owes its callers, whatever it is made of.

use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;

use backup_agent::event::Progress;
use backup_agent::manifest::{self, Pin};
use backup_agent::model::RunId;
use backup_agent::target::{Cache, Published, Removal, SENTINEL_FILE, Sentinel, Stage, Target};
use chrono::{DateTime, Utc};

/// Opens the same target anew, as another process would. Each clause begins with an empty one.
pub type Open<'a> = &'a (dyn Fn() -> Box<dyn Target> + Sync);

/// How one empty place is opened.
pub type Opener = Box<dyn Fn() -> Box<dyn Target> + Sync>;

/// One thing a target owes.
type Clause = (&'static str, fn(Open<'_>));

const CLAUSES: &[Clause] = &[
    ("it answers, and says what it is", answers),
    ("a published backup is found, read whole and by position", published_backup_is_read),
    ("large files and empty ones come back byte for byte", sizes_come_back),
    ("nothing is visible before it is published", invisible_until_published),
    ("a taken location is told and nothing there changes", taken_is_told),
    ("what a dead writer left is found and cleaned up", leftovers_are_cleaned),
    ("what is abandoned leaves nothing", abandoned_leaves_nothing),
    ("a removal is whole, can be repeated, and spares another run's backup", removal),
    ("a pin stands beside its backup, is found again, and goes with it", pins),
    ("two writers at the same time do not mix", two_writers),
    ("writers that need the same new folders at the same time get them", new_folders_at_once),
    ("a publication is not disturbed by removals that leave its folders empty", removals_beside),
    ("a file name or location that leaves the backup is refused", names_stay_inside),
    ("an incomplete file is not accepted", incomplete_is_refused),
    ("a file that is not there is an error and no empty file", absent_is_an_error),
    ("the sentinel is made once and kept", sentinel_is_kept),
    ("backups of several hosts are scanned, newest first", scanned),
];

/// Holds a target against every clause. `fresh` makes an empty place and gives how it is opened.
pub fn conforms(fresh: &dyn Fn(&str) -> Opener) {
    let mut broken = Vec::new();
    for (number, (says, clause)) in CLAUSES.iter().enumerate() {
        let open = fresh(&format!("clause-{number}"));
        if catch_unwind(AssertUnwindSafe(|| clause(&*open))).is_err() {
            broken.push(*says);
        }
    }
    assert!(broken.is_empty(), "it does not hold that\n  {}", broken.join("\n  "));
}

fn noon() -> DateTime<Utc> {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn run(letters: &str) -> RunId {
    format!("20261124T180000Z-{letters}").parse().unwrap()
}

fn locations(run: &RunId) -> Vec<String> {
    vec![
        "web1/daily/2026/11/24/1900".to_owned(),
        "web1/daily/2026/11/24/190000".to_owned(),
        format!("web1/daily/2026/11/24/1900-{run}"),
    ]
}

fn manifest_of(run: &RunId, host: &str, started: &str) -> Vec<u8> {
    serde_json::json!({
        "version": 1, "run_id": run, "job": "web", "instance_id": "i", "host": host, "agent_version": "1",
        "timezone": "UTC", "started": started, "ended": started, "outcome": "success", "codec": "zstd",
        "encryption": "none", "components": [],
    })
    .to_string()
    .into_bytes()
}

fn put(stage: &mut dyn Stage, file: &str, bytes: &[u8]) {
    let mut staged = stage.create(file).unwrap();
    staged.write_all(bytes).unwrap();
    staged.finish(bytes.len() as u64).unwrap();
}

/// Publishes at the first location that is free, as the program does.
fn publish(stage: &mut dyn Stage, all: &[String]) -> String {
    let settled = stage.settled().map(|location| vec![location.to_owned()]);
    let tried = settled.unwrap_or_else(|| all.to_vec());
    tried
        .into_iter()
        .find(|location| stage.publish(location).unwrap() == Published::Done)
        .expect("all are taken")
}

/// Writes a backup of one file and gives where it is.
fn back_up(target: &dyn Target, run: &RunId, bytes: &[u8]) -> String {
    let all = locations(run);
    let mut stage = target.stage(run, &all).unwrap();
    put(stage.as_mut(), "files.tar.zst", bytes);
    put(stage.as_mut(), manifest::FILE, &manifest_of(run, "web1", "2026-11-24T18:00:00Z"));
    publish(stage.as_mut(), &all)
}

fn read(target: &dyn Target, location: &str, file: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    target.open(location, file, Cache::Cold).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn found(target: &dyn Target) -> Vec<(String, RunId)> {
    let scan = target.scan(&Progress::default()).unwrap();
    assert!(scan.unread.is_empty(), "{:?}", scan.unread);
    scan.found.into_iter().map(|found| (found.location, found.run_id)).collect()
}

/// Bytes that no compression on the way makes smaller, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn answers(open: Open<'_>) {
    let target = open();
    target.probe().unwrap();
    assert!(target.unfinished().unwrap().is_empty());
    assert!(found(target.as_ref()).is_empty());
    assert!(!target.identify(noon()).unwrap().file_system.is_empty());
}

fn published_backup_is_read(open: Open<'_>) {
    let id = run("aaaaaa");
    let bytes = noise(3 << 20);
    let location = back_up(open().as_ref(), &id, &bytes);
    let target = open();
    assert_eq!(location, locations(&id)[0]);
    assert!(target.holds(&location, &id).unwrap());
    assert!(!target.holds(&location, &run("bbbbbb")).unwrap());
    assert!(!target.holds("web1/nowhere", &id).unwrap());
    target.probe_readable(&location).unwrap();
    assert_eq!(found(target.as_ref()), [(location.clone(), id)]);
    assert!(target.unfinished().unwrap().is_empty());
    assert!(read(target.as_ref(), &location, "files.tar.zst") == bytes);
    let file = target.open(&location, "files.tar.zst", Cache::Warm).unwrap();
    let at = file.read_at();
    assert_eq!(at.length().unwrap(), bytes.len() as u64);
    for (offset, length) in [(0, 1), (1, 10), (11, 4096), (2 << 20, 1 << 20), (5, 0), (bytes.len() - 7, 7)] {
        assert!(
            at.read_exact_at(offset as u64, length).unwrap() == bytes[offset..][..length],
            "{offset}+{length}"
        );
    }
    assert!(at.read_exact_at(bytes.len() as u64 - 3, 4).is_err(), "it read past the end");
}

fn sizes_come_back(open: Open<'_>) {
    let id = run("aaaaaa");
    let target = open();
    let all = locations(&id);
    let mut stage = target.stage(&id, &all).unwrap();
    // The largest is several parts of any multipart upload.
    let sizes = [0, 1, 4095, 65_536, 40 << 20];
    for (number, size) in sizes.iter().enumerate() {
        let mut staged = stage.create(&format!("{number}.zst")).unwrap();
        // In pieces that fit no block of anything.
        for piece in noise(*size).chunks(1_000_003) {
            staged.write_all(piece).unwrap();
        }
        staged.finish(*size as u64).unwrap();
    }
    put(stage.as_mut(), manifest::FILE, &manifest_of(&id, "web1", "2026-11-24T18:00:00Z"));
    let location = publish(stage.as_mut(), &all);
    for (number, size) in sizes.iter().enumerate() {
        assert!(read(target.as_ref(), &location, &format!("{number}.zst")) == noise(*size), "{size} bytes");
    }
}

fn invisible_until_published(open: Open<'_>) {
    let id = run("aaaaaa");
    let (target, other) = (open(), open());
    let all = locations(&id);
    let mut stage = target.stage(&id, &all).unwrap();
    put(stage.as_mut(), "files.tar.zst", b"content");
    put(stage.as_mut(), manifest::FILE, &manifest_of(&id, "web1", "2026-11-24T18:00:00Z"));
    assert!(found(other.as_ref()).is_empty());
    assert!(!other.holds(&all[0], &id).unwrap());
    let location = publish(stage.as_mut(), &all);
    assert_eq!(found(other.as_ref()), [(location, id)]);
}

fn taken_is_told(open: Open<'_>) {
    let target = open();
    let (first, second) = (run("aaaaaa"), run("bbbbbb"));
    let one = back_up(target.as_ref(), &first, b"first");
    let two = back_up(target.as_ref(), &second, b"second");
    assert_ne!(one, two);
    assert_eq!(read(target.as_ref(), &one, "files.tar.zst"), b"first");
    assert_eq!(read(target.as_ref(), &two, "files.tar.zst"), b"second");
    let mut stage = target.stage(&run("cccccc"), &locations(&run("cccccc"))).unwrap();
    put(stage.as_mut(), manifest::FILE, &manifest_of(&run("cccccc"), "web1", "2026-11-24T18:00:00Z"));
    assert_eq!(stage.publish(&one).unwrap(), Published::Taken);
    stage.abandon().unwrap();
    assert_eq!(read(target.as_ref(), &one, "files.tar.zst"), b"first");
}

fn leftovers_are_cleaned(open: Open<'_>) {
    let dead = run("aaaaaa");
    {
        let target = open();
        let mut stage = target.stage(&dead, &locations(&dead)).unwrap();
        put(stage.as_mut(), "files.tar.zst", &noise(1 << 20));
    }
    let target = open();
    let kept = back_up(target.as_ref(), &run("bbbbbb"), b"good");
    assert_eq!(target.unfinished().unwrap(), std::slice::from_ref(&dead));
    assert!(target.clean(&dead).unwrap(), "there was something");
    assert!(!target.clean(&dead).unwrap(), "there is nothing left");
    assert!(target.unfinished().unwrap().is_empty());
    assert_eq!(read(target.as_ref(), &kept, "files.tar.zst"), b"good");
    // Its id can be used again, as the next attempt at a copy does.
    back_up(target.as_ref(), &dead, b"again");
}

fn abandoned_leaves_nothing(open: Open<'_>) {
    let target = open();
    let id = run("aaaaaa");
    let mut stage = target.stage(&id, &locations(&id)).unwrap();
    put(stage.as_mut(), "files.tar.zst", b"content");
    stage.abandon().unwrap();
    assert!(target.unfinished().unwrap().is_empty());
    let mut stage = target.stage(&id, &locations(&id)).unwrap();
    put(stage.as_mut(), "files.tar.zst", b"content");
    put(stage.as_mut(), manifest::FILE, &manifest_of(&id, "web1", "2026-11-24T18:00:00Z"));
    publish(stage.as_mut(), &locations(&id));
    stage.abandon().unwrap();
    assert!(found(target.as_ref()).is_empty(), "what was published and abandoned is still there");
    assert!(target.unfinished().unwrap().is_empty());
}

fn removal(open: Open<'_>) {
    let target = open();
    let (first, second) = (run("aaaaaa"), run("bbbbbb"));
    let location = back_up(target.as_ref(), &first, b"first");
    target.remove(&location, &second).unwrap();
    assert!(target.holds(&location, &first).unwrap(), "another run's backup was removed");
    target.remove(&location, &first).unwrap();
    target.remove(&location, &first).unwrap();
    target.remove("web1/never/was", &first).unwrap();
    assert!(found(target.as_ref()).is_empty());
    assert!(target.open(&location, "files.tar.zst", Cache::Warm).is_err());
    assert_eq!(back_up(target.as_ref(), &second, b"second"), location, "the name is not free again");
    target.remove(&location, &first).unwrap();
    assert_eq!(read(target.as_ref(), &location, "files.tar.zst"), b"second");
}

fn pins(open: Open<'_>) {
    let (first, second) = (run("aaaaaa"), run("bbbbbb"));
    let location = back_up(open().as_ref(), &first, b"first");
    let other = back_up(open().as_ref(), &second, b"second");
    let pin = |reason: &str| Pin::new(noon(), "root@web1".to_owned(), Some(reason.to_owned()));
    let (before, after) = (pin("before the move"), pin("Größe \u{1F980}\n"));
    let target = open();
    assert!(target.set_pin(&location, &second, Some(&before)).is_err(), "another run's backup was pinned");
    assert!(target.set_pin("web1/nowhere", &first, Some(&before)).is_err());
    for pin in [&before, &before, &after] {
        target.set_pin(&location, &first, Some(pin)).unwrap();
        assert_eq!(open().pin(&location).unwrap().as_ref(), Some(pin));
    }
    assert_eq!(target.pin(&other).unwrap(), None);
    assert_eq!(target.pin("web1/nowhere").unwrap(), None);
    assert_eq!(read(target.as_ref(), &location, "files.tar.zst"), b"first");
    let scan = open().scan(&Progress::default()).unwrap();
    let pins: Vec<_> = scan.found.iter().map(|found| (&found.run_id, found.pin.as_ref())).collect();
    assert_eq!(pins, [(&second, None), (&first, Some(&after))]);
    for _ in 0..2 {
        target.set_pin(&location, &first, None).unwrap();
        assert_eq!(open().pin(&location).unwrap(), None);
    }
    target.set_pin(&location, &first, Some(&before)).unwrap();
    assert_eq!(target.remove(&location, &first).unwrap(), Removal::Removed);
    assert_eq!(target.pin(&location).unwrap(), None, "it outlived its backup");
    assert_eq!(found(target.as_ref()), [(other, second)]);
}

fn two_writers(open: Open<'_>) {
    let ids = [run("aaaaaa"), run("bbbbbb"), run("cccccc")];
    let mut places: Vec<(String, RunId)> = thread::scope(|scope| {
        let writers = ids.each_ref().map(|id| {
            scope.spawn(move || (back_up(open().as_ref(), id, id.as_str().as_bytes()), id.clone()))
        });
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let target = open();
    for (location, id) in &places {
        assert_eq!(read(target.as_ref(), location, "files.tar.zst"), id.as_str().as_bytes());
    }
    let mut scanned = found(target.as_ref());
    places.sort();
    scanned.sort();
    assert_eq!(scanned, places);
    assert!(target.unfinished().unwrap().is_empty());
}

fn new_folders_at_once(open: Open<'_>) {
    const WRITERS: usize = 6;
    let mut expected = Vec::new();
    for month in ["10", "11", "12"] {
        let together = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let id = run(&format!("{month}{writer:04}"));
                let location = format!("web1/daily/2026/{month}/24/190{writer}");
                expected.push((location.clone(), id.clone()));
                let together = &together;
                scope.spawn(move || {
                    let target = open();
                    let mut stage = target.stage(&id, std::slice::from_ref(&location)).unwrap();
                    put(stage.as_mut(), manifest::FILE, &manifest_of(&id, "web1", "2026-11-24T18:00:00Z"));
                    together.wait();
                    assert_eq!(publish(stage.as_mut(), std::slice::from_ref(&location)), location);
                });
            }
        });
    }
    let mut scanned = found(open().as_ref());
    scanned.sort();
    expected.sort();
    assert_eq!(scanned, expected);
}

fn removals_beside(open: Open<'_>) {
    const WRITERS: usize = 3;
    for round in 0..6 {
        let together = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let together = &together;
                scope.spawn(move || {
                    let target = open();
                    let id = run(&format!("{writer:03}{round:03}"));
                    let location = format!("web1/daily/2026/{round:02}/24/190{writer}");
                    let mut stage = target.stage(&id, std::slice::from_ref(&location)).unwrap();
                    put(stage.as_mut(), manifest::FILE, &manifest_of(&id, "web1", "2026-11-24T18:00:00Z"));
                    together.wait();
                    assert_eq!(publish(stage.as_mut(), std::slice::from_ref(&location)), location);
                    assert!(target.holds(&location, &id).unwrap());
                    assert_eq!(target.remove(&location, &id).unwrap(), Removal::Removed);
                });
            }
        });
    }
    assert!(found(open().as_ref()).is_empty());
}

fn names_stay_inside(open: Open<'_>) {
    let target = open();
    let id = run("aaaaaa");
    let location = back_up(target.as_ref(), &id, b"content");
    for (location, file) in [
        (location.as_str(), "../x"),
        (location.as_str(), ".."),
        (location.as_str(), ""),
        ("../up", "files.tar.zst"),
        ("/etc", "passwd"),
        ("", "files.tar.zst"),
        ("web1/../web1", "files.tar.zst"),
    ] {
        assert!(target.open(location, file, Cache::Warm).is_err(), "{location:?} {file:?} was opened");
    }
    for location in ["", "..", "/", "../up", ".partial-x"] {
        assert!(target.remove(location, &id).is_err(), "{location:?} was removed");
    }
}

fn incomplete_is_refused(open: Open<'_>) {
    let target = open();
    let id = run("aaaaaa");
    let mut stage = target.stage(&id, &locations(&id)).unwrap();
    let mut staged = stage.create("files.tar.zst").unwrap();
    staged.write_all(b"seven b").unwrap();
    assert!(staged.finish(8).is_err(), "a file that is too short was accepted");
    stage.abandon().unwrap();
}

fn absent_is_an_error(open: Open<'_>) {
    let target = open();
    let location = back_up(target.as_ref(), &run("aaaaaa"), b"content");
    assert!(target.open(&location, "other.tar.zst", Cache::Cold).is_err());
    assert!(target.open("web1/nowhere", "files.tar.zst", Cache::Cold).is_err());
}

fn sentinel_is_kept(open: Open<'_>) {
    let target = open();
    let made = target.initialise(&Sentinel::generate("web1", noon())).unwrap();
    let again = open().initialise(&Sentinel::generate("web2", noon())).unwrap();
    assert_eq!(made, again, "{SENTINEL_FILE} was replaced");
    assert_eq!(open().identify(noon()).unwrap().id, Some(made.id));
    back_up(target.as_ref(), &run("aaaaaa"), b"content");
    assert_eq!(found(target.as_ref()).len(), 1);
}

fn scanned(open: Open<'_>) {
    let target = open();
    let mut expected = Vec::new();
    for (number, host) in ["web1", "web2", "web1", "db"].iter().enumerate() {
        let id: RunId = format!("202611{:02}T030000Z-aaaaaa", 10 + number).parse().unwrap();
        let started = format!("2026-11-{:02}T03:00:00Z", 10 + number);
        let all = [format!("{host}/web/2026/11/{:02}", 10 + number)];
        let mut stage = target.stage(&id, &all).unwrap();
        put(stage.as_mut(), manifest::FILE, &manifest_of(&id, host, &started));
        expected.insert(0, (publish(stage.as_mut(), &all), id));
    }
    assert_eq!(found(open().as_ref()), expected);
}
