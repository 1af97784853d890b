//! Both layouts against a store in memory.

use std::io::Read as _;
use std::sync::Arc;

use super::memory::MemoryStore;
use super::*;
use crate::event::Progress;
use crate::manifest::{self, Pin};
use crate::model::RunId;
use crate::target::{Cache, Published, Removal, Stage};

fn run(letters: &str) -> RunId {
    format!("20261124T180000Z-{letters}").parse().unwrap()
}

fn store(with_folders: bool) -> MemoryStore {
    MemoryStore { with_folders, ..MemoryStore::default() }
}

fn open(store: &MemoryStore, write_only: bool) -> Box<dyn Target> {
    let name = "away".parse().unwrap();
    target(Box::new(store.clone()), Settings { name, scratch: None, expected: None, write_only })
}

fn locations(run: &RunId) -> Vec<String> {
    vec!["web1/1900".to_owned(), "web1/190000".to_owned(), format!("web1/1900-{run}")]
}

fn manifest_of(run: &RunId) -> Vec<u8> {
    serde_json::json!({
        "version": 1, "run_id": run, "job": "web", "instance_id": "i", "host": "web1", "agent_version": "1",
        "timezone": "UTC", "started": "2026-11-24T18:00:00Z", "ended": "2026-11-24T18:01:00Z",
        "outcome": "success", "codec": "zstd", "encryption": "none", "components": [],
    })
    .to_string()
    .into_bytes()
}

fn put(stage: &mut dyn Stage, file: &str, bytes: &[u8]) {
    let mut staged = stage.create(file).unwrap();
    staged.write_all(bytes).unwrap();
    staged.finish(bytes.len() as u64).unwrap();
}

/// Writes a backup and gives where it was published.
fn back_up(target: &dyn Target, run: &RunId) -> String {
    let all = locations(run);
    let mut stage = target.stage(run, &all).unwrap();
    put(stage.as_mut(), "files.tar.zst", b"content");
    put(stage.as_mut(), manifest::FILE, &manifest_of(run));
    let settled = stage.settled().map(|location| vec![location.to_owned()]);
    let tried = settled.unwrap_or(all);
    tried.into_iter().find(|location| stage.publish(location).unwrap() == Published::Done).unwrap()
}

fn keys(store: &MemoryStore) -> Vec<String> {
    store.inside.lock().unwrap().objects.keys().cloned().collect()
}

#[test]
fn a_backup_is_written_found_read_and_removed_in_both_layouts() {
    for with_folders in [true, false] {
        let store = store(with_folders);
        let target = open(&store, false);
        let (first, second) = (run("aaaaaa"), run("bbbbbb"));
        let location = back_up(target.as_ref(), &first);
        assert_eq!(location, "web1/1900");
        assert_eq!(back_up(target.as_ref(), &second), "web1/190000", "a taken name was taken again");
        assert_eq!(keys(&store).len(), 4, "marks were left: {:?}", keys(&store));
        assert!(target.unfinished().unwrap().is_empty());
        let scan = target.scan(&Progress::default()).unwrap();
        assert_eq!(scan.found.len(), 2);
        assert!(scan.unread.is_empty());
        assert!(target.holds(&location, &first).unwrap() && !target.holds(&location, &second).unwrap());

        let mut file = target.open(&location, "files.tar.zst", Cache::Cold).unwrap();
        assert_eq!(file.read_at().read_exact_at(3, 2).unwrap(), b"te");
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(target.open(&location, "../../etc", Cache::Warm).is_err());
        assert!(target.open("../x", "files.tar.zst", Cache::Warm).is_err());

        target.remove("web1/190000", &first).unwrap();
        assert!(target.holds("web1/190000", &second).unwrap(), "another run's backup was removed");
        target.remove(&location, &first).unwrap();
        target.remove(&location, &first).unwrap();
        target.remove("web1/190000", &second).unwrap();
        assert!(keys(&store).is_empty(), "{:?}", keys(&store));
    }
}

#[test]
fn what_is_not_published_is_not_found_and_goes_when_it_is_cleaned_up() {
    for with_folders in [true, false] {
        let store = store(with_folders);
        let target = open(&store, false);
        let dead = run("aaaaaa");
        let mut stage = target.stage(&dead, &locations(&dead)).unwrap();
        put(stage.as_mut(), "files.tar.zst", b"content");
        put(stage.as_mut(), manifest::FILE, &manifest_of(&dead));
        drop(stage);
        assert!(target.scan(&Progress::default()).unwrap().found.is_empty());
        assert_eq!(target.unfinished().unwrap(), std::slice::from_ref(&dead));
        assert!(target.clean(&dead).unwrap());
        assert!(!target.clean(&dead).unwrap());
        assert!(keys(&store).is_empty(), "{:?}", keys(&store));

        let mut stage = target.stage(&dead, &locations(&dead)).unwrap();
        put(stage.as_mut(), "files.tar.zst", b"content");
        stage.abandon().unwrap();
        assert!(keys(&store).is_empty(), "{:?}", keys(&store));
    }
}

#[test]
fn a_removal_that_was_cut_short_is_no_backup_and_is_gone_on_with() {
    let store = store(false);
    let target = open(&store, false);
    let (old, new) = (run("aaaaaa"), run("bbbbbb"));
    let location = back_up(target.as_ref(), &old);
    // As a death after the manifest leaves it.
    {
        let mut inside = store.inside.lock().unwrap();
        inside.objects.remove(&format!("{location}/{}", manifest::FILE));
        inside.objects.insert(format!(".expired-{old}"), Arc::new(location.clone().into_bytes()));
    }
    assert!(target.scan(&Progress::default()).unwrap().found.is_empty());
    assert_eq!(back_up(target.as_ref(), &new), "web1/190000", "its rest was written into");
    target.remove(&location, &old).unwrap();
    assert_eq!(keys(&store).len(), 2, "{:?}", keys(&store));
    // The name is free, a new one takes it, and the old one's removal is asked for again.
    let third = run("cccccc");
    assert_eq!(back_up(target.as_ref(), &third), location);
    target.remove(&location, &old).unwrap();
    assert!(target.holds(&location, &third).unwrap());
}

#[test]
fn two_runs_that_choose_a_folder_at_the_same_time_do_not_mix() {
    let store = store(false);
    let target = open(&store, false);
    let (one, other) = (run("aaaaaa"), run("bbbbbb"));
    let mut first = target.stage(&one, &locations(&one)).unwrap();
    let mut second = target.stage(&other, &locations(&other)).unwrap();
    assert_ne!(first.place(), second.place());
    for stage in [&mut first, &mut second] {
        put(stage.as_mut(), "files.tar.zst", b"content");
        put(stage.as_mut(), manifest::FILE, b"{}");
        let place = stage.place();
        assert_eq!(stage.publish(&place).unwrap(), Published::Done);
    }
    assert_eq!(keys(&store).len(), 4, "{:?}", keys(&store));
}

#[test]
fn pins_stand_beside_the_manifest_in_both_layouts_and_go_with_the_backup() {
    for with_folders in [true, false] {
        let store = store(with_folders);
        let target = open(&store, false);
        let (first, second) = (run("aaaaaa"), run("bbbbbb"));
        let location = back_up(target.as_ref(), &first);
        back_up(target.as_ref(), &second);
        let pin = Pin::new("2026-11-24T19:00:00Z".parse().unwrap(), "root@web1".to_owned(), None);
        assert!(target.set_pin(&location, &second, Some(&pin)).is_err(), "another run's backup was pinned");
        for _ in 0..2 {
            target.set_pin(&location, &first, Some(&pin)).unwrap();
        }
        assert_eq!(target.pin(&location).unwrap().as_ref(), Some(&pin));
        assert_eq!(target.pin("web1/nowhere").unwrap(), None);
        let scan = target.scan(&Progress::default()).unwrap();
        let pins: Vec<_> = scan.found.iter().map(|f| (f.location.as_str(), f.pin.is_some())).collect();
        assert_eq!(pins, [("web1/190000", false), ("web1/1900", true)]);
        for _ in 0..2 {
            target.set_pin(&location, &first, None).unwrap();
        }
        assert_eq!(target.pin(&location).unwrap(), None);
        target.set_pin(&location, &first, Some(&pin)).unwrap();
        target.remove(&location, &first).unwrap();
        target.remove("web1/190000", &second).unwrap();
        assert!(keys(&store).is_empty(), "{:?}", keys(&store));
    }
}

#[test]
fn what_write_once_storage_keeps_stays_whole_and_is_no_error() {
    for with_folders in [true, false] {
        let store = store(with_folders);
        let target = open(&store, false);
        let id = run("aaaaaa");
        let location = back_up(target.as_ref(), &id);
        let until = "2026-12-24T18:00:00Z".parse().unwrap();
        store.inside.lock().unwrap().kept_until = Some(until);
        assert_eq!(target.remove(&location, &id).unwrap(), Removal::Retained { until: Some(until) });
        assert!(target.holds(&location, &id).unwrap());
        assert_eq!(keys(&store).len(), 2, "{:?}", keys(&store));
        store.inside.lock().unwrap().kept_until = None;
        assert_eq!(target.remove(&location, &id).unwrap(), Removal::Removed);
        assert!(keys(&store).is_empty(), "{:?}", keys(&store));
    }
}

#[test]
fn a_write_only_target_needs_no_list_no_read_and_no_delete() {
    let store = store(false);
    let target = open(&store, true);
    let id = run("aaaaaa");
    assert_eq!(back_up(target.as_ref(), &id), format!("web1/1900-{id}"));
    assert_eq!(keys(&store).len(), 2, "{:?}", keys(&store));
    assert!(target.unfinished().unwrap().is_empty());
    // It can be pinned, and only somebody else can take that away.
    let location = format!("web1/1900-{id}");
    let pin = Pin::new("2026-11-24T19:00:00Z".parse().unwrap(), "root@web1".to_owned(), None);
    target.set_pin(&location, &id, Some(&pin)).unwrap();
    assert_eq!(target.pin(&location).unwrap(), None);
    assert!(target.set_pin(&location, &id, None).is_err());
    assert!(keys(&store).contains(&format!("{location}/PINNED")));
}
