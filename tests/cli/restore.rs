//! `agent restore`: whole backups, components, chosen paths, and folders that are not empty.

use std::fs;

use crate::world::{SIMPLE, World, below};

fn world() -> World {
    let world = World::new(&SIMPLE.replace(
        "[job.web.source.application]",
        r#"[job.web.source.numbers]
type = "command"
command = ["seq", "1", "5"]
extension = "txt"
[job.web.source.application]"#,
    ));
    world.agent("backup").exits(0);
    world
}

#[test]
fn several_components_go_into_folders_of_their_own_and_one_into_the_folder_itself() {
    let world = world();
    let whole = world.agent("restore latest --to whole --json").exits(0).json();
    assert_eq!(whole["components"].as_array().unwrap().len(), 2);
    world.same("data", below("whole/application", &world, "data"));
    assert_eq!(world.read("whole/numbers/numbers.txt"), "1\n2\n3\n4\n5\n");

    world.agent("restore latest --component numbers --to numbers").exits(0);
    assert_eq!(world.read("numbers/numbers.txt"), "1\n2\n3\n4\n5\n");
    world.agent("restore latest --component application --to application").exits(0);
    world.same("data", below("application", &world, "data"));
    world
        .agent("restore latest --component database --to nothing")
        .exits(1)
        .says(&["has no component database; it has: numbers, application"]);
    assert!(!world.path("nothing").exists());
}

#[test]
fn paths_choose_files_folders_and_patterns() {
    let world = world();
    let data = below("", &world, "data").display().to_string();
    let files = |folder: &str| world.sh(&format!("cd {folder} && find . -type f -printf '%f\\n' | sort"));

    world.agent(&format!("restore latest --to one --path {data}/index.php")).exits(0);
    assert_eq!(files("one"), "index.php\n");
    world.agent(&format!("restore latest --to folder --path /{data}/app")).exits(0);
    assert_eq!(files("folder"), "Grüße.php\nUser.php\n");
    world.agent("restore latest --to glob --path **/*.php --path **/big.*").exits(0);
    assert_eq!(files("glob"), "Grüße.php\nUser.php\nbig.bin\nindex.php\n");
    assert_eq!(
        fs::read(world.path(below("glob", &world, "data/storage/media/big.bin"))).unwrap(),
        fs::read(world.path("data/storage/media/big.bin")).unwrap()
    );
    world
        .agent("restore latest --to none --path nothing/like/it")
        .exits(1)
        .says(&["no path in run ", " matches nothing/like/it"]);
}

#[test]
fn a_folder_that_is_not_empty_is_left_alone_unless_it_may_be_replaced() {
    let world = world();
    let place = below("full", &world, "data/index.php").display().to_string();
    world.write(&place, "mine\n");
    let refused = world.agent("restore latest --component application --to full").exits(1);
    refused.says(&["full is not empty; choose another folder, or replace what is there with --force"]);
    assert_eq!(world.read(&place), "mine\n");
    world.agent("restore latest --component application --to full --force").exits(0);
    assert_eq!(world.read(&place), "<?php echo 'hello';\n");
}

#[test]
fn a_damaged_backup_is_found_and_what_is_restored_from_it_is_not_passed_off_as_good() {
    let world = world();
    let folder = world.backups("local").pop().unwrap();
    let archive = folder.join("application.tar.zst");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&archive, bytes).unwrap();

    let found = world.agent("verify --json").exits(1).json();
    assert_eq!(found[0]["ok"], false);
    assert!(found[0]["problems"][0].as_str().unwrap().contains("application.tar.zst has digest "), "{found}");
    let list = world.agent("list --json").json();
    assert_eq!(list[0]["status"], "corrupt", "{list}");
    world.agent("restore latest --component application --to r").exits(1);
    // What is whole in it is still to be had.
    world.agent("restore latest --component numbers --to n").exits(0);
    let check = world.agent("check").exits(2);
    assert!(check.out.contains("verify"), "{}", check.out);
}

/// A tree of several frames.
fn many_files(world: &World) {
    world.sh("for d in 1 2 3 4 5 6; do mkdir data/d$d; for f in 1 2 3 4 5 6 7 8; do
            head -c 200000 /dev/urandom > data/d$d/f$f; done; done; ln data/d1/f1 data/zz-second-name");
    world.agent("backup").exits(0);
}

#[test]
fn damage_costs_the_files_of_its_frame_only_and_names_them() {
    let world = world();
    many_files(&world);
    let archive = world.backups("local").pop().unwrap().join("application.tar.zst");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&archive, bytes).unwrap();

    let refused = world.agent("restore latest --component application --to all-or-nothing").exits(1);
    refused.says(&[
        "application.tar.zst is damaged; restore from another target with --target",
        "--keep-going",
        "frame ",
    ]);

    let kept =
        world.agent("restore latest --component application --to most --keep-going --json").exits(1).json();
    let component = &kept["components"][0];
    let lost: Vec<String> = component["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            assert!(p["why"].as_str().unwrap().starts_with("lost: frame "), "{p}");
            format!("/{}", p["path"].as_str().unwrap())
        })
        .collect();
    assert_eq!(component["lost"], lost.len());
    assert!(!lost.is_empty() && lost.len() < 20, "{lost:?}");
    // Everything that is not named is there, byte for byte, and nothing else.
    let from = world.path("data");
    for entry in world.sh(&format!("find {} -mindepth 1", from.display())).lines() {
        let back = world.path(format!("most{entry}"));
        let named = lost.iter().any(|path| path.trim_end_matches('/') == entry);
        if named {
            assert!(back.is_dir() || fs::symlink_metadata(&back).is_err(), "{entry} is there in part");
        } else if fs::symlink_metadata(entry).unwrap().is_file() {
            assert!(fs::read(&back).unwrap() == fs::read(entry).unwrap(), "{entry} differs");
        } else {
            assert!(fs::symlink_metadata(&back).is_ok(), "{entry} is missing");
        }
    }
}

#[test]
fn without_a_good_index_an_archive_is_restored_from_its_beginning() {
    let world = world();
    many_files(&world);
    let folder = world.backups("local").pop().unwrap();
    let index = folder.join("application.index.zst");
    let mut bytes = fs::read(&index).unwrap();
    bytes[40] ^= 1;
    fs::write(&index, bytes).unwrap();
    world
        .agent("restore latest --component application --to back")
        .exits(0)
        .says(&["read from its beginning"]);
    world.same("data", below("back", &world, "data"));
    world.sh("test data/zz-second-name -ef data/d1/f1");
    world.sh("cd back/$PWD && test data/zz-second-name -ef data/d1/f1");
}

#[test]
fn files_go_back_to_where_they_came_from_when_that_is_asked_for() {
    let world = world();
    many_files(&world);
    world.sh(
        "cp -a data before; rm -r data/d3 data/link; echo changed > data/index.php; echo mine > data/mine; \
              chmod 600 data/index.php",
    );
    world.agent("restore latest --in-place").exits(2).says(&["--force"]);
    assert_eq!(world.read("data/index.php"), "changed\n");
    let data = world.path("data").display().to_string();
    world.agent(&format!("restore latest --in-place --force --path {data}/d3")).exits(0);
    assert_eq!(world.read("data/index.php"), "changed\n");
    world
        .agent("restore latest --in-place --force")
        .exits(0)
        .says(&["left out numbers", "--component numbers"]);
    assert_eq!(world.read("data/mine"), "mine\n", "what the backup does not know was touched");
    world.sh("rm data/mine && touch -r before data");
    world.same("before", "data");
    let left = world.sh("find data -name '.agent-restore*'");
    assert_eq!(left, "");
    world
        .agent("restore latest --in-place --force --component numbers")
        .exits(1)
        .says(&["component numbers is no tree of files: restore it into a folder, with --to"]);
}
