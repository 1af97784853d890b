//! Archives that a backup script made (bash, GNU tar, gzip), taken in as backups that are never changed.

#[path = "cli/world.rs"]
mod world;

use std::fs;
use std::sync::OnceLock;

use serde_json::Value;
use world::{SIMPLE, World};

/// Beside the files, where the archives of the script lie.
const OLD: &str = r#"
[target.local.keep]
last = 1
[target.old]
type = "directory"
path = "{}/var-backups"
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

/// The day `days` ago at a time of day, as the script and the names know it. Today is what it was at the first call.
fn moment(world: &World, days: u32, time: &str) -> String {
    static TODAY: OnceLock<String> = OnceLock::new();
    let today = TODAY.get_or_init(|| world.sh("date +%F").trim().to_owned());
    world.sh(&format!("date -d '{today} {days} days ago' +'%Y-%m-%d {time}'")).trim().to_owned()
}

fn with_archives() -> World {
    let world = World::new(&format!("{SIMPLE}{OLD}"));
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
    let world = World::new(&format!("{SIMPLE}{OLD}"));
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
    let world = World::new(&format!("{SIMPLE}{OLD}"));
    world.sh(
        "mkdir -p var-backups/a; cd var-backups/a; echo x > notes.txt; : > empty-2025-11-04.tar.gz; \
         echo y > fresh-2025-11-05.sql; echo z > fine-20251106_0300.sql; ln -s fine-20251106_0300.sql link.sql; \
         echo w > packed-2025-11-07.sql.xz; echo v > ../top-2025-11-08.sql; \
         tar -C ../../data -czf whole.tar.gz . && head -c -20 whole.tar.gz > cut-2025-11-09.tar.gz; rm whole.tar.gz; \
         gzip -c /dev/null > nothing-2025-11-10.sql.gz; \
         touch -d '2 hours ago' empty* fine* packed* cut* nothing* ../top*",
    );
    let done = world.agent("import var-backups --job web").exits(0).out;
    for text in [
        "empty-2025-11-04.tar.gz: it is empty",
        "may still be written",
        "link.sql: it is hidden, or no plain file",
        "stands at the top of the target",
        "cut-2025-11-09.tar.gz: it is no backup: decompressing cut-2025-11-09.tar.gz: reading the archive to its end: unexpected end of file",
        "nothing-2025-11-10.sql.gz: it is no backup: there is nothing in",
        "imported 2 backups",
    ] {
        assert!(done.contains(text), "{text}: {done}");
    }
    assert!(!done.contains("notes.txt"), "{done}");
    let deep = world.agent("verify --all --deep").exits(0).out;
    assert_eq!(deep.matches("decompressed and walked through").count(), 1, "{deep}");
    assert!(deep.contains("not looked into, since another program packed it: packed-2025-11-07"), "{deep}");
    world
        .agent("restore latest --to back")
        .exits(1)
        .says(&["packed by another program", "xz -dc a/packed-2025-11-07.sql.xz"]);
    world.agent("import data --job web").exits(1).says(&["lies in no target", "[target.old]"]);
    world.agent("import var-backups --job wbe").exits(2).says(&["there is no job wbe"]);
}

#[test]
fn imported_archives_are_looked_into_and_compared_with_the_agents_own() {
    let world = with_archives();
    // GNU tar's own formats: a sparse file with more holes than a header has room for, and files added later.
    let at = moment(&world, 1, "05:00");
    world.sh(&format!(
        "dir=var-backups/askproai/daily/$(date -d '{at}' +%Y/%m/%d/%H%M); mkdir -p $dir more/sub
         for n in $(seq 40); do printf x | dd of=more/sparse bs=1 seek=$((n * 100000)) conv=notrunc status=none; done
         echo first > more/twice; mkfifo more/pipe; ln more/twice more/sub/again; ln -s ../twice more/sub/link
         tar --format=gnu -S -cf $dir/extra.tar ./more/sparse ./more/pipe ./more/twice ./more/sub
         rm more/twice; echo second > more/twice; tar --format=gnu -rf $dir/extra.tar ./more/twice
         echo no-bzip2 > $dir/odd.tar.bz2; touch -d '{at}' $dir/*"
    ));
    world.agent("import var-backups/askproai --job web").exits(0);
    let runs = copies(&world);
    let run = |n: usize| runs[n]["run_id"].as_str().unwrap().to_owned();
    let (newest, extra) = (run(0), run(1));

    let listed = world.agent(&format!("ls {newest}")).exits(0).out;
    assert_eq!(listed, "application:\n  data/\ndatabase:\n  database.sql.gz\nsystem-state:\n  data/\n");
    let listed = world.agent(&format!("ls {newest} data -R -l --component application")).exits(0).out;
    assert_eq!(listed.lines().count(), 10, "{listed}");
    for text in ["data/app/Models/Grüße.php", "data/link -> index.php", "2025-01-02 04:04", "320000"] {
        assert!(listed.contains(text), "{text}: {listed}");
    }
    let cat = |args: &str| world.agent(&format!("cat {args}")).exits(0).out;
    assert_eq!(cat(&format!("{newest} data/link")), world.read("data/index.php"));
    assert_eq!(
        cat(&format!("{newest} data/app/Models/User.php --component system-state")),
        world.read("data/app/Models/User.php")
    );
    assert!(cat(&format!("{newest} --component database")).contains("-- Dump completed on"));
    world.agent(&format!("cat {newest} data/app")).exits(1).says(&["data/app is a folder"]);
    world.agent(&format!("cat {newest} data/none")).exits(1).says(&["there is no file data/none"]);
    world.agent(&format!("cat {newest} --component application")).exits(1).says(&["say which file"]);
    world
        .agent(&format!("ls {newest} --component none"))
        .exits(1)
        .says(&["it has: application, database, system-state"]);

    let listed = world.agent(&format!("ls {extra} -R -l --component extra")).exits(0);
    assert!(listed.err.contains("1 devices and pipes are not listed"), "{}", listed.err);
    assert!(
        listed.out.contains(" 4000001 ") && listed.out.contains("more/sub/again = more/twice"),
        "{}",
        listed.out
    );
    assert_eq!(listed.out.matches("more/twice\n").count(), 2, "a path is listed once: {}", listed.out);
    assert_eq!(cat(&format!("{extra} more/sub/link")), "second\n");
    world.agent(&format!("cat {extra} more/sparse")).exits(1).says(&["GNU tar's old format"]);
    world
        .agent(&format!("ls {extra}"))
        .exits(1)
        .says(&["odd.tar.bz2 is packed by another program; `bzip2 -dc FILE | tar -tvf -`"]);

    // Against a backup of the agent's own: only what changed is told, whatever the paths begin with.
    world.agent("backup").exits(0);
    let same = world.agent(&format!("diff {newest} --component application")).exits(0).out;
    assert!(same.ends_with("0 added, 0 removed, 0 changed\n"), "{same}");
    world.sh("echo changed > data/index.php; echo new > data/new.php; rm data/storage/media/big.bin");
    world.agent("backup").exits(0);
    let differs = world.agent(&format!("diff {newest} latest --component application")).exits(0).out;
    for text in [
        "~ ",
        "/data/index.php (",
        "/data/new.php\n",
        "/data/storage/media/big.bin\n",
        "1 added, 1 removed, 1 changed",
    ] {
        assert!(differs.contains(text), "{text}: {differs}");
    }
    let back = world.agent(&format!("diff latest {newest} --component application --json")).exits(0).out;
    assert!(back.contains("\"change\":\"removed\""), "{back}");
    // Two imported ones.
    let between = world.agent(&format!("diff {} {newest}", run(2))).exits(0).out;
    assert!(between.contains("~ database.sql.gz ("), "{between}");
    assert!(between.ends_with("0 added, 0 removed, 1 changed\n"), "{between}");

    // One that was damaged since gives an error with what it gives out.
    world.sh("f=$(ls -d var-backups/askproai/daily/*/*/*/1100/database.sql.gz); printf 'x' | gzip > $f.new; cat $f.new > $f");
    world.agent(&format!("cat {newest} --component database")).exits(1).says(&["is not what was imported"]);
}
