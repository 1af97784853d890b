//! Looking into backups: `ls`, `cat`, `diff`, `export`.

use std::fs;

use crate::world::{SIMPLE, World};

fn world() -> World {
    let world = World::new(&SIMPLE.replace(
        "[job.web.source.application]",
        r#"[job.web.source.numbers]
type = "command"
command = ["cat", "{}/numbers"]
extension = "txt"
[job.web.source.application]"#,
    ));
    world.write("numbers", "1\n2\n3\n");
    world.agent("backup").exits(0);
    world
}

/// Where the data stands in the archive.
fn data(world: &World) -> String {
    world.path("data").display().to_string()
}

#[test]
fn what_is_in_a_backup_is_listed_by_level_and_as_a_whole() {
    let world = world();
    let data = data(&world);
    let stored = data.trim_start_matches('/').to_owned();

    let top = world.agent("ls latest").exits(0).out;
    let first = stored.split('/').next().unwrap();
    assert_eq!(top, format!("numbers:\n  numbers.txt\napplication:\n  {first}/\n"));

    let level = world.agent(&format!("ls latest {data}/ --component application")).exits(0).out;
    let names: Vec<&str> = level.lines().map(|line| line.strip_prefix(&stored).unwrap()).collect();
    assert_eq!(names, ["/app/", "/empty/", "/index.php", "/link -> index.php", "/storage/"]);

    let long = world.agent(&format!("ls latest {data}/app -lR --component application")).exits(0).out;
    let user = long.lines().find(|line| line.ends_with("User.php")).unwrap();
    assert!(user.starts_with("-rw-r--r--           20 20"), "{user}");
    assert_eq!(long.lines().count(), 3, "{long}");

    let all = world.agent("ls latest -R --json").exits(0).out;
    let entries: Vec<serde_json::Value> = all.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let tar = world.sh("tar --zstd -tf $(find local -name application.tar.zst) | wc -l");
    assert_eq!(entries.len() - 1, tar.trim().parse::<usize>().unwrap());
    assert_eq!(entries[0]["component"], "numbers");

    world.agent("ls latest no/such/folder").exits(1).says(&["nothing at \"no/such/folder\" in run "]);
}

#[test]
fn one_file_is_printed_as_it_was_through_links_and_holes() {
    let world = world();
    let data = data(&world);
    world.sh("truncate -s 3M data/sparse && printf end >> data/sparse && ln data/index.php data/second; \
              ln -s app data/current; ln -s ../elsewhere/x data/away");
    world.agent("backup").exits(0);
    for (path, file) in [
        ("index.php", "index.php"),
        ("link", "index.php"),
        ("second", "index.php"),
        ("storage/media/big.bin", "storage/media/big.bin"),
        ("sparse", "sparse"),
    ] {
        let mut program = world.program();
        program.args(["--config", "config.toml", "cat", "latest"]).arg(format!("{data}/{path}"));
        let printed = program.output().unwrap();
        assert!(printed.status.success(), "{path}: {printed:?}");
        assert!(printed.stdout == fs::read(world.path("data").join(file)).unwrap(), "{path} differs");
    }
    assert_eq!(world.agent("cat latest --component numbers").exits(0).out, "1\n2\n3\n");
    world.agent(&format!("cat latest {data}/app")).exits(1).says(&["/app is a folder; list it with `ls`"]);
    world
        .agent(&format!("cat latest {data}/current"))
        .exits(1)
        .says(&["/app is a folder; list it with `ls`"]);
    world
        .agent(&format!("cat latest {data}/away"))
        .exits(1)
        .says(&["/away is a link that leads to ", "/elsewhere/x, and that is not in the backup"]);
    world.agent("cat latest nothing").exits(1).says(&["there is no file nothing in run ", "ls -R"]);
    world.agent("cat latest --component application").exits(1).says(&["is a tree of files; say which file"]);
    world.agent("cat latest").exits(2);
    // A reader that has enough ends it without noise.
    let head = world
        .sh("$AGENT --config config.toml ls latest -R | head -1; $AGENT --config config.toml cat \
                         latest \"$PWD/data/storage/media/big.bin\" 2>&1 | head -c 5");
    assert_eq!(head, "numbers:\n01234");
}

#[test]
fn what_changed_between_two_backups_is_told_by_path() {
    let world = world();
    world.agent("backup").exits(0);
    let first = world.agent("history --json").json()[0]["run_id"].as_str().unwrap().to_owned();
    assert!(
        world
            .agent(&format!("diff {first} latest"))
            .exits(0)
            .out
            .ends_with("0 added, 0 removed, 0 changed\n")
    );

    world.write("data/app/new.php", "new");
    world.write("data/index.php", "<?php echo 'good bye';\n");
    world.write("numbers", "1\n2\n3\n4\n");
    world.sh("rm data/app/Models/User.php; chmod 700 data/empty; ln -sf app data/link");
    world.agent("backup").exits(0);

    let changes = world.agent(&format!("diff {first}")).exits(0).out;
    let prefix = format!("{}/", data(&world).trim_start_matches('/'));
    let lines: Vec<String> = changes.lines().map(|line| line.replace(&prefix, "")).collect();
    assert_eq!(
        lines[..6],
        [
            "~ numbers.txt.zst (6 B → 8 B)",
            "- app/Models/User.php",
            "+ app/new.php",
            "~ empty/ (mode 755 → 700)",
            "~ index.php (20 B → 23 B)",
            "~ link (names index.php → app)",
        ]
    );
    assert!(lines[6].ends_with(": 1 added, 1 removed, 4 changed"), "{}", lines[6]);

    let only = format!("diff {first} latest --path {}/app --json", data(&world));
    let only: Vec<serde_json::Value> =
        world.agent(&only).exits(0).out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told: Vec<&str> = only.iter().map(|c| c["change"].as_str().unwrap()).collect();
    assert_eq!(told, ["removed", "added"]);
    world.agent(&format!("diff {first} --component database")).exits(1).says(&["neither backup has"]);
}

#[test]
fn an_exported_backup_is_checked_and_restored_with_tar_and_sha256sum_alone() {
    let world = world();
    world.agent("export latest --to out.tar").exits(0).says(&["exported ", "into out.tar"]);
    assert_eq!(world.sh("stat -c %a out.tar"), "600\n");
    world.sh("mkdir there && tar -xf out.tar -C there && cd there/*/ && sha256sum --quiet -c SHA256SUMS");
    world.sh("mkdir files && tar --zstd -xpf there/*/application.tar.zst -C files");
    world.same("data", format!("files{}", data(&world)));
    world.agent("export latest --to out.tar").exits(1).says(&["is there already; replace it with --force"]);
    world.agent("export latest --to out.tar --force").exits(0);
    // The same bytes to a pipe.
    world.sh("$AGENT --config config.toml export latest --to - | cmp - out.tar");

    let archive = world.backups("local").pop().unwrap().join("application.tar.zst");
    let mut bytes = fs::read(&archive).unwrap();
    bytes[100] ^= 1;
    fs::write(&archive, &bytes).unwrap();
    world
        .agent("export latest --to bad.tar")
        .exits(1)
        .says(&["application.tar.zst has digest ", "it is damaged"]);
    fs::write(&archive, &bytes[..bytes.len() - 1]).unwrap();
    world.agent("export latest --to bad.tar").exits(1).says(&["application.tar.zst has "]);
    let left = world.sh("ls -A");
    assert!(!left.contains("bad.tar"), "an unfinished export was left: {left}");
}
