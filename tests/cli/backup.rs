//! `agent backup --source DIR --to DIR` and what is there afterwards.

use serde_json::Value;

use crate::world::{SIMPLE, World, below};

#[test]
fn a_folder_is_backed_up_listed_shown_verified_and_restored_without_any_configuration() {
    let world = World::empty();
    world.data();
    let made = world.bare("backup --source data --to backups").exits(0);
    assert!(made.out.starts_with("success  job default, run "), "{}", made.out);
    let made = made.says(&["stored and read back: ", "/backups/daily/20", " entries\n"]);
    let run = made.out.split("run ").nth(1).unwrap().split(',').next().unwrap().to_owned();

    let list = world.bare("--backups backups list").exits(0);
    let lines: Vec<&str> = list.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", list.out);
    assert!(lines[0].starts_with("RUN ") && lines[1].starts_with(&run), "{}", list.out);
    assert!(lines[1].contains(" success ") && lines[1].contains(" verified "), "{}", list.out);

    // By its id, its beginning, its last six characters, and as the latest.
    for id in [&run[..], &run[..12], &run[run.len() - 6..], "latest"] {
        let shown = world.bare(&format!("--backups backups show {id}")).exits(0);
        assert!(shown.out.starts_with(&format!("run      {run}\n")), "{id}: {}", shown.out);
    }
    world.bare(&format!("--backups backups show {run} --log")).exits(0).says(&["\nlog\n", "read-back: done"]);
    world
        .bare("--backups backups show 19990101T000000Z-aaaaaa")
        .exits(1)
        .says(&["error: there is no run 19990101T000000Z-aaaaaa; the nearest are: ", &run]);

    world.bare("--backups backups verify").exits(0).says(&["verified ", " at backups: 2 files, "]);
    world.bare("--backups backups verify --deep").exits(0).says(&[", decompressed and walked through"]);
    world.bare("--backups backups restore latest --to restored").exits(0).says(&["restored files of "]);
    world.same("data", below("restored", &world, "data"));
}

#[test]
fn further_runs_into_one_folder_stand_beside_each_other() {
    let world = World::empty();
    world.data();
    for _ in 0..3 {
        world.bare("backup --source data --to backups").exits(0);
    }
    assert_eq!(world.backups("backups").len(), 3);
    let names: Vec<String> = world.backups("backups").iter().map(|p| p.display().to_string()).collect();
    assert_eq!(world.bare("--backups backups list --json").json().as_array().unwrap().len(), 3, "{names:?}");
    // Which of several is meant is asked, not guessed.
    let asked = world.bare("--backups backups show 20").exits(2);
    assert!(
        asked.err.starts_with("error: 3 runs begin with 20: ") && !asked.err.contains('…'),
        "{}",
        asked.err
    );
}

#[test]
fn two_sources_are_both_in_the_archive_and_the_target_inside_a_source_is_not() {
    let world = World::empty();
    world.data();
    world.write("other/file", "other\n");
    world.bare("backup --source data --source other --to data/backups").exits(0);
    world.bare("backup --source data --source other --to data/backups").exits(0);
    world.bare("--backups data/backups restore latest --to r").exits(0);
    world.same("other", below("r", &world, "other"));
    let data = below("r", &world, "data");
    assert!(world.path(&data).join("index.php").exists());
    let inside: Vec<_> =
        world.path(&data).join("backups").read_dir().map(|d| d.collect()).unwrap_or_default();
    assert!(inside.is_empty(), "the backups are in the backup: {inside:?}");
}

#[test]
fn a_backup_restores_by_the_very_commands_of_its_restore_text() {
    let world = World::new(&SIMPLE.replace(
        "[job.web.source.application]",
        r#"[job.web.source.ldap]
type = "command"
command = ["printf", "dn: %s\n", "one", "two"]
extension = "ldif"
[job.web.source.application]"#,
    ));
    for (codec, extension) in [("zstd", "zst"), ("gzip", "gz")] {
        let config = world.read("config.toml");
        let engine = format!("{config}\n[job.web.engine]\ncodec = \"{codec}\"\nlevel = 9\n");
        world.write("this.toml", &engine);
        world.bare("--config this.toml backup").exits(0);
        let folder = world.backups("local").pop().unwrap();
        assert!(folder.join(format!("application.tar.{extension}")).exists());
        let text = std::fs::read_to_string(folder.join("RESTORE.txt")).unwrap();
        // A command stands four columns in; words that are no command stand there only before a colon.
        let commands: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .filter(|line| !line.trim_end().ends_with(':') && !line.contains("PATH/AS/LISTED"))
            .map(|line| line.replace("/restore", &world.path(codec).display().to_string()))
            .collect();
        assert!(commands.len() >= 4, "{text}");
        assert!(commands[0].starts_with("sha256sum -c "), "{commands:?}");
        world.sh(&format!("cd '{}'\n{}", folder.display(), commands.join("\n")));
        world.same("data", below(&format!("{codec}/application"), &world, "data"));
        assert_eq!(world.read(format!("{codec}/ldap.ldif")), "dn: one\ndn: two\n");
        // And one file alone.
        let one = text.lines().find(|line| line.contains("PATH/AS/LISTED")).unwrap();
        let path = below("", &world, "data/app/Models/User.php");
        let command = one
            .replace("PATH/AS/LISTED", &path.display().to_string())
            .replace("/restore/application", &world.path("one").display().to_string());
        world.sh(&format!("mkdir -p one; cd '{}'\n{command}", folder.display()));
        assert_eq!(world.read(below("one", &world, "data/app/Models/User.php")), "<?php class User {}\n");
        world.sh("rm -r one");
        // The program itself reads its own work too.
        world.bare("--config this.toml verify --deep").exits(0);
        world.bare(&format!("--config this.toml restore latest --to own-{codec}")).exits(0);
        world.same("data", below(&format!("own-{codec}/application"), &world, "data"));
        assert_eq!(world.read(format!("own-{codec}/ldap/ldap.ldif")), "dn: one\ndn: two\n");
    }
}

#[test]
fn the_level_of_compression_is_the_one_configured() {
    let world = World::new(SIMPLE);
    world.write("data/text", &world.sh("seq 1 200000"));
    let mut sizes = Vec::new();
    for level in [1, 19] {
        world.write(
            "this.toml",
            &format!("{}\n[job.web.engine]\nlevel = {level}\n", world.read("config.toml")),
        );
        let made = world.bare("--config this.toml backup --json").exits(0).json();
        sizes.push(made["components"][0]["stored_bytes"].as_u64().unwrap());
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn the_answer_is_json_where_a_program_reads_it() {
    let world = World::new(SIMPLE);
    let made = world.agent("backup --json").exits(0).json();
    for key in [
        "job",
        "run_id",
        "outcome",
        "exit_code",
        "error",
        "degraded",
        "locked_by",
        "duration_seconds",
        "target",
        "location",
        "source_bytes",
        "stored_bytes",
        "warnings",
        "components",
        "steps",
        "notes",
        "untold",
    ] {
        assert!(made.get(key).is_some(), "{key} is missing: {made}");
    }
    assert_eq!((&made["outcome"], &made["exit_code"]), (&Value::from("success"), &Value::from(0)));
    assert_eq!(made["components"][0]["name"], "application");
    let location = made["location"].as_str().unwrap();
    assert!(std::path::Path::new(location).join("manifest.json").exists(), "{location}");
}

#[test]
fn without_a_terminal_there_are_plain_lines_with_levels_and_no_colours() {
    let world = World::new(SIMPLE);
    let made = world.agent("backup").exits(0);
    assert!(!made.out.contains('\u{1b}') && !made.err.contains('\u{1b}'), "{made:?}");
    for step in ["preflight", "capture", "publish", "read-back"] {
        assert!(made.err.contains(&format!("{step}: done in ")), "{}", made.err);
    }
    assert!(made.err.lines().all(|line| line.contains(" INFO ")), "{}", made.err);
    // Whoever asks for more gets it, and whoever closes the pipe disturbs nothing.
    assert!(world.agent("backup -v").exits(0).err.contains("DEBUG"));
    world.sh("\"$AGENT\" --config config.toml config schema | head -n 1");
    world.sh("\"$AGENT\" --config config.toml backup 2>&1 >/dev/null | head -n 1");
    world.agent("verify").exits(0);
}

#[test]
fn on_a_terminal_there_are_a_bar_and_colours_unless_they_are_not_wanted() {
    let world = World::new(SIMPLE);
    // The reading is held back, so that there is time to draw.
    world.write(
        "slow.toml",
        &format!("{}\n[job.web.engine]\nread_limit = \"2 MiB\"\n", world.read("config.toml")),
    );
    world.sh("seq 1 1200000 > data/text");
    let on_terminal = |environment: &str| {
        world.sh(&format!(
            "{environment} script -qec '\"$AGENT\" --config slow.toml backup' /dev/null </dev/null | cat -v"
        ))
    };
    let first = on_terminal("TERM=xterm");
    assert!(first.contains("application"), "{first}");
    assert!(first.contains("MiB/s"), "{first}");
    assert!(first.contains("^[[32msuccess"), "{first}");
    assert!(!first.contains(" INFO "), "the log is for machines: {first}");
    let plain = on_terminal("TERM=xterm NO_COLOR=1");
    assert!(
        plain.contains(" left") && plain.contains('%'),
        "the second run knows how long it takes: {plain}"
    );
    let coloured = ["[31m", "[32m", "[33m", "[36m", "[1;31m"];
    assert!(!coloured.iter().any(|colour| plain.contains(colour)), "{plain}");
}
