//! Archives that a backup script made (bash, GNU tar, gzip), taken in as backups that are never changed.

#[path = "cli/world.rs"]
#[allow(dead_code)]
mod world;

use std::fs;

use serde_json::Value;
use world::World;

const JOB: &str = r#"
timezone = "Europe/Berlin"
host = "web1"
state_dir = "{}/state"
[target.local]
type = "directory"
path = "{}/local"
keep = { last = 1 }
[target.old]
type = "directory"
path = "{}/var-backups"
[job.web]
trigger = "external"
schedule = "0 3,11,19 * * *"
targets = ["local"]
[job.web.source.application]
type = "files"
paths = ["{}/data"]
"#;

/// The script that the agent replaces, by its bones: `$1` is the moment it runs at.
const SCRIPT: &str = r#"
backup() {
    local at="$1" dir; dir="var-backups/askproai/daily/$(date -d "$at" +%Y/%m/%d/%H%M)"
    exec 200> backup-run.lock; flock -n 200
    mkdir -p "$dir"
    printf 'CREATE TABLE users (id int);\n-- Dump completed on %s\n' "$at" | gzip > "$dir/database.sql.gz"
    set +e; tar -czf "$dir/application.tar.gz" data; local tar_exit=$?; set -e
    [ $tar_exit -eq 2 ] && return 1
    tar -cf - data/app | zstd -q > "$dir/system-state.tar.zst"
    (cd "$dir" && sha256sum ./*.gz ./*.zst > SHA256SUMS)
    touch -d "$at" "$dir"/*
    flock -u 200
}
"#;

/// The day `days` ago at a time of day, as the script and the names know it.
fn moment(world: &World, days: u32, time: &str) -> String {
    world.sh(&format!("date -d '{days} days ago' +'%Y-%m-%d {time}'")).trim().to_owned()
}

fn with_archives() -> World {
    let world = World::new(JOB);
    // The script's archives keep whole seconds only.
    world.sh("find data -depth -exec touch -h -d '2025-01-02 03:04:05' {} +");
    for (days, time) in [(3, "03:00"), (2, "19:00"), (1, "11:00")] {
        let at = moment(&world, days, time);
        world.sh(&format!("{SCRIPT}backup '{at}'"));
    }
    world
}

fn copies(world: &World) -> Vec<Value> {
    world.agent("list --json").exits(0).json().as_array().unwrap().clone()
}

fn listing(world: &World) -> String {
    world.sh("find var-backups -printf '%p %s %T@ %m\\n' | sort")
}

#[test]
fn archives_of_a_script_are_listed_verified_restored_and_never_touched() {
    let world = with_archives();
    let before = listing(&world);
    let would = world.agent("import var-backups/askproai --job web --dry-run").exits(0).out;
    assert!(would.contains("would import 3 backups of job web at target old"), "{would}");
    assert!(world.agent("list --json").code != 0 || copies(&world).is_empty());
    let done = world.agent("import var-backups/askproai --job web").exits(0).out;
    assert!(done.contains("{application.tar.gz, database.sql.gz, system-state.tar.zst}"), "{done}");
    assert!(done.contains("imported 3 backups of job web"), "{done}");
    world
        .agent("import var-backups/askproai --job web")
        .exits(0)
        .says(&["imported 0 backups", "3 known before"]);

    // When they were taken is what the folders say, in the job's zone.
    let found = copies(&world);
    let taken: Vec<&str> = found.iter().map(|copy| copy["started"].as_str().unwrap()).collect();
    let yesterday = moment(&world, 1, "11:00");
    let utc = world.sh(&format!("date -u -d 'TZ=\"Europe/Berlin\" {yesterday}' +%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!(taken[0], utc.trim());
    assert!(taken.is_sorted_by(|a, b| a > b), "{taken:?}");
    world.agent("list").says(&["imported", "askproai/daily/"]);
    let status = world.agent("status --json").json();
    let last = status["status"]["jobs"][0]["last_success"]["started"].as_str().unwrap().to_owned();
    assert_eq!(last, taken[0], "freshness sees them");

    // Verified by digest; restored by the same safe restore; the newest is `latest`.
    world.agent("verify --all").exits(0).says(&["verified"]);
    world.agent("restore latest --to back").exits(0).says(&["restored application.tar.gz"]);
    world.same("data", "back/application/data");
    world.same("data/app", "back/system-state/data/app");
    assert!(world.read("back/database/database.sql").contains("-- Dump completed on"));
    world.agent("restore latest --to elsewhere --path data").exits(2).says(&["restored whole"]);

    // The agent's own runs count from now on, and its retention leaves the others alone.
    for _ in 0..3 {
        world.agent("backup").exits(0);
    }
    world.agent("prune").exits(0);
    let statuses: Vec<_> =
        copies(&world).iter().filter(|c| c["imported"] == true).map(|c| c["status"].clone()).collect();
    assert_eq!(statuses, ["verified"; 3]);
    let own = world.agent("show latest --json").json();
    assert_ne!(own["run"]["trigger"], "import");
    assert_eq!(listing(&world), before, "nothing of theirs was changed");
    // What the script makes beside the agent does not hide that the agent makes nothing.
    let now = moment(&world, 0, "00:00");
    world.sh(&format!(
        "{SCRIPT}backup '{now}'; find var-backups -newermt '-15 minutes' -exec touch -d '1 hour ago' {{}} +"
    ));
    world.agent("import var-backups --job web").exits(0).says(&["imported 1 backup "]);
    let last = world.agent("status --json").json();
    assert_eq!(last["status"]["jobs"][0]["last_success"]["run_id"], own["run"]["run_id"]);
}

#[test]
fn damage_is_found_and_what_the_script_removed_is_forgotten() {
    let world = with_archives();
    world.agent("import var-backups/askproai --job web").exits(0);
    let newest = copies(&world)[0]["location"].as_str().unwrap().to_owned();
    let archive = world.path("var-backups").join(newest).join("application.tar.gz");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    world.agent("verify --all").exits(1).says(&["corrupt", "when it was imported"]);
    world.agent("repair").exits(1).says(&["made by another program"]);

    let oldest = copies(&world)[2]["location"].as_str().unwrap().to_owned();
    fs::remove_dir_all(world.path("var-backups").join(oldest)).unwrap();
    world.agent("import var-backups/askproai --job web").exits(0).says(&["was removed by whoever made it"]);
    assert_eq!(copies(&world).len(), 2);
}

#[test]
fn a_hostile_archive_leaves_the_folder_no_more_than_any_other() {
    let world = World::new(JOB);
    fs::create_dir_all(world.path("var-backups/flat")).unwrap();
    world.sh(
        "mkdir -p evil/in; echo pwned > evil/up; ln -s ../../outside evil/in/link; mkdir outside; \
         tar -P -C evil/in -cf var-backups/flat/shop-2025-11-04.tar ../up; \
         tar -P -C evil/in -rf var-backups/flat/shop-2025-11-04.tar link; \
         echo x > evil/file; \
         tar -P -C evil --transform 's,^file,link/file,' -rf var-backups/flat/shop-2025-11-04.tar file; \
         tar -P -C evil --transform 's,^file,/tmp/agent-import-absolute,' -rf var-backups/flat/shop-2025-11-04.tar file; \
         gzip var-backups/flat/shop-2025-11-04.tar; touch -d 2025-11-05 var-backups/flat/*",
    );
    world
        .agent("import var-backups/flat --job web")
        .exits(0)
        .says(&["of 2025-11-04 00:00", "imported 1 backup "]);
    let ran = world.agent("restore latest --to back/deep");
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_eq!(world.sh("find outside -type f; find . -name up -not -path './evil/*'"), "");
    assert!(!std::path::Path::new("/tmp/agent-import-absolute").exists());
}

#[test]
fn what_is_no_archive_or_not_ready_is_passed_over_with_its_reason() {
    let world = World::new(JOB);
    world.sh(
        "mkdir -p var-backups/a; cd var-backups/a; echo x > notes.txt; : > empty-2025-11-04.tar.gz; \
         echo y > fresh-2025-11-05.sql; echo z > fine-20251106_0300.sql; ln -s fine-20251106_0300.sql link.sql; \
         echo w > packed-2025-11-07.sql.xz; echo v > ../top-2025-11-08.sql; \
         touch -d '2 hours ago' empty* fine* packed* ../top*",
    );
    let done = world.agent("import var-backups --job web").exits(0).out;
    for text in [
        "empty-2025-11-04.tar.gz: it is empty",
        "may still be written",
        "link.sql: it is hidden, or no plain file",
        "stands at the top of the target",
        "imported 2 backups",
    ] {
        assert!(done.contains(text), "{text}: {done}");
    }
    assert!(!done.contains("notes.txt"), "{done}");
    world
        .agent("restore latest --to back")
        .exits(1)
        .says(&["packed by another program", "xz -dc a/packed-2025-11-07.sql.xz"]);
    world.agent("import data --job web").exits(1).says(&["lies in no target", "[target.old]"]);
    world.agent("import var-backups --job wbe").exits(2).says(&["there is no job wbe"]);
}
