//! Encrypted backups: opened by the `age` program alone, by this one with a key, and by nobody without.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::world::{Ran, SIMPLE, World, below};

/// [`SIMPLE`] with a stream beside the tree, and encryption.
fn config(encryption: &str) -> String {
    let stream = r#"[job.web.source.ldap]
type = "command"
command = ["printf", "dn: %s\n", "one", "two"]
extension = "ldif"
[job.web.source.application]"#;
    format!("{}\n{encryption}\n", SIMPLE.replace("[job.web.source.application]", stream))
}

/// Makes a key with the program itself; gives the public one.
fn generate(world: &World, file: &str) -> String {
    let made = world.bare(&format!("key generate --output {file}")).exits(0);
    let line = made.out.lines().find_map(|line| line.strip_prefix("public key: ")).unwrap();
    line.to_owned()
}

/// A world with one key, `key.txt`, to which everything is encrypted.
fn sealed(more: &str) -> (World, String) {
    let world = World::new(SIMPLE);
    let public = generate(&world, "key.txt");
    world.configure(&config(&format!("[encryption]\nrecipients = [\"{public}\"]\n{more}")));
    (world, public)
}

fn newest(world: &World) -> PathBuf {
    // Folders of one second have the run's id in their names, which says nothing of their order.
    let copies = world.agent("list --json").json();
    world.path("local").join(copies[0]["location"].as_str().unwrap())
}

/// The commands of a `RESTORE.txt`, with another place than `/restore`, and the key.
fn commands(world: &World, folder: &Path, to: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join("RESTORE.txt")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.starts_with('#') && !line.contains("PATH/AS/LISTED"))
        .map(|line| line.replace("key.txt", &world.path(key).display().to_string()))
        .map(|line| line.replace("/restore", &world.path(to).display().to_string()))
        .collect()
}

#[test]
fn any_of_several_keys_opens_a_backup_by_the_commands_of_its_restore_text_and_by_the_program() {
    let world = World::new(SIMPLE);
    let public = generate(&world, "key.txt");
    world.sh(
        "ssh-keygen -q -t ed25519 -N '' -C alice@laptop -f ed25519; ssh-keygen -q -t rsa -b 2048 -N '' -f rsa
         age-keygen -o other.txt 2>/dev/null; age-keygen -y other.txt > recipients.txt; cat rsa.pub >> recipients.txt",
    );
    let ed25519 = world.read("ed25519.pub");
    for (codec, extension) in [("zstd", "zst"), ("gzip", "gz")] {
        world.configure(&config(&format!(
            "[job.web.encryption]\nrecipients = [\"{public}\", \"{}\"]\nrecipients_file = \"{{}}/recipients.txt\"\n\
             [job.web.engine]\ncodec = \"{codec}\"\n",
            ed25519.trim()
        )));
        world.agent("backup").exits(0);
        let folder = newest(&world);
        let mut names: Vec<String> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let (archive, stream) =
            (format!("application.tar.{extension}.age"), format!("ldap.ldif.{extension}.age"));
        assert_eq!(
            names,
            [
                "RESTORE.txt",
                "SHA256SUMS",
                "application.index.zst.age",
                archive.as_str(),
                stream.as_str(),
                "manifest.json"
            ]
            .map(str::to_owned)
            .to_vec()
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
        );
        // Without this program, with each of the keys.
        for key in ["key.txt", "ed25519", "rsa", "other.txt"] {
            let to = format!("hand-{codec}-{key}");
            let commands = commands(&world, &folder, &to, key);
            assert!(commands.iter().any(|c| c.starts_with("age -d -i ")), "{commands:?}");
            world.sh(&format!("cd '{}'\n{}", folder.display(), commands.join("\n")));
            world.same("data", below(&format!("{to}/application"), &world, "data"));
            assert_eq!(world.read(format!("{to}/ldap.ldif")), "dn: one\ndn: two\n");
        }
        // The list says what stands where, in the archive as it is decrypted.
        let index = world.sh(&format!(
            "age -d -i key.txt '{}' | zstd -dc | head -n 3",
            folder.join("application.index.zst.age").display()
        ));
        assert!(index.starts_with(r#"{"frame":0,"offset":0,"#), "{index}");
        // With this program, by each of them.
        for key in ["key.txt", "ed25519", "rsa", "other.txt"] {
            world.agent(&format!("restore latest --identity {key} --to own-{codec}-{key}")).exits(0);
            world.same("data", below(&format!("own-{codec}-{key}/application"), &world, "data"));
            assert_eq!(world.read(format!("own-{codec}-{key}/ldap/ldap.ldif")), "dn: one\ndn: two\n");
            world.agent(&format!("verify --deep --identity {key}")).exits(0);
            world
                .agent(&format!("key check --identity {key}"))
                .exits(0)
                .says(&["opened", "ldap, application"]);
        }
    }
}

#[test]
fn a_passphrase_opens_a_backup_by_age_on_a_terminal_and_by_this_host() {
    let world = World::new(SIMPLE);
    let canary = "correct horse battery canary";
    world.write("passphrase", &format!("{canary}\n"));
    fs::set_permissions(world.path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    world.configure(&config("[encryption]\npassphrase_file = \"{}/passphrase\"\n"));
    let backup = world.agent("backup -vv").exits(0);
    let folder = newest(&world);
    // age asks on its terminal only, so it is given one.
    for command in commands(&world, &folder, "hand", "none") {
        if !command.starts_with("age -d ") {
            world.sh(&format!("cd '{}'; {command}", folder.display()));
            continue;
        }
        let root = world.root();
        world.write(
            "step.sh",
            &format!(
                "trap 'touch {root}/done' EXIT; set -euo pipefail; cd '{}'; {command}\n",
                folder.display()
            ),
        );
        // It is typed when it was asked for, and the terminal shows nothing any more; the keyboard stays until the end.
        world.sh(&format!(
            "rm -f done; : > said
             wait_for() {{ for n in $(seq 1200); do test -e done && break; eval \"$1\" && break; sleep 0.1; done; }}
             (wait_for 'grep -qi passphrase said'; sleep 2; echo '{canary}'; wait_for false) \
                 | script -qec 'bash step.sh' /dev/null > said"
        ));
    }
    world.same("data", below("hand/application", &world, "data"));
    assert_eq!(world.read("hand/ldap.ldif"), "dn: one\ndn: two\n");
    // This host has the passphrase anyway.
    world.agent("restore latest --to own").exits(0);
    world.same("data", below("own/application", &world, "data"));
    world.agent("drill").exits(0);
    world.agent("key check --passphrase-file passphrase").exits(0).says(&["opened"]);
    world.write("wrong", "another passphrase altogether");
    fs::set_permissions(world.path("wrong"), fs::Permissions::from_mode(0o600)).unwrap();
    world.agent("ls latest --passphrase-file wrong").exits(1).says(&["is not the one it is encrypted with"]);
    // The passphrase is nowhere but in its file.
    let shown =
        [world.agent("config show"), world.agent("show latest --log"), world.agent("metrics"), backup];
    for Ran { out, err, .. } in shown {
        assert!(!out.contains(canary) && !err.contains(canary), "{out}{err}");
    }
    let found = world.sh(&format!("grep -rlaF '{canary}' state local said || true"));
    assert_eq!(found, "");
}

#[test]
fn nothing_of_the_source_stands_in_clear_at_the_target() {
    let (world, public) = sealed("");
    world.write("data/secret-name-canary/content.txt", "secret-content-canary");
    std::os::unix::net::UnixListener::bind(world.path("data/secret-socket-canary")).unwrap();
    world.agent("backup").exits(0);
    assert_eq!(world.sh("grep -rlaE 'secret-(name|content|socket)-canary' local || true"), "");
    let folder = newest(&world);
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["encryption"], serde_json::json!({"age": {"recipients": [public]}}));
    let application =
        manifest["components"].as_array().unwrap().iter().find(|c| c["name"] == "application").unwrap();
    assert_eq!(application["warning_counts"]["skipped"], 1);
    assert!(application.get("warnings").is_none(), "{application}");
    // What is skipped stands in the encrypted list, and in the state of the host itself.
    let list = world.sh(&format!(
        "age -d -i key.txt '{}' | zstd -dc",
        folder.join(application["warnings_file"]["file"].as_str().unwrap()).display()
    ));
    assert!(list.contains("secret-socket-canary"), "{list}");
    world.agent("show latest").exits(0).says(&["secret-socket-canary", &public]);
    world.agent("drill --identity key.txt").exits(0);
}

#[test]
fn without_the_key_it_says_which_one_and_everything_that_needs_none_works() {
    let (world, public) = sealed("[target.nas]\ntype = \"directory\"\npath = \"{}/nas\"\n");
    fs::create_dir(world.path("nas")).unwrap();
    world.write("config.toml", &world.read("config.toml").replace("[\"local\"]", "[\"local\", \"nas\"]"));
    world.agent("backup").exits(0);
    let how = [public.as_str(), "--identity FILE"];
    for verb in ["restore latest --to out", "ls latest", "cat latest --component ldap", "diff latest latest"]
    {
        world.agent(verb).exits(1).says(&how);
    }
    assert!(!world.path("out").exists());
    world.agent("verify --deep").exits(1).says(&how);
    world.agent("drill").exits(1).says(&["[job.web.drill]", "--identity FILE"]);
    world.agent("key check").exits(2).says(&["--identity"]);
    // The copies are as good as ever.
    world.agent("verify").exits(0);
    assert!(world.agent("list --json").exits(0).out.contains("verified"));
    world.sh("cmp local/*/*/*/*/*/application.tar.zst.age nas/*/*/*/*/*/application.tar.zst.age || true");
    let copy = world.backups("nas").pop().unwrap();
    world.sh(&format!("cd '{}' && sha256sum -c --quiet SHA256SUMS", copy.display()));
    world.agent("export latest --to all.tar").exits(0);
    world.sh("mkdir all && tar -xf all.tar -C all && cd all/* && sha256sum -c --quiet SHA256SUMS");
    world.sh(&format!(
        "dd if=/dev/zero of='{}' bs=1 count=9 seek=900 conv=notrunc status=none",
        copy.join("application.tar.zst.age").display()
    ));
    world.agent("verify --target nas").exits(1);
    world.agent("repair").exits(0);
    world.agent("verify --target nas").exits(0);
    // Another key is told apart from none.
    let other = generate(&world, "other.txt");
    let wrong = world.agent("restore latest --identity other.txt --to out").exits(1).says(&[&public, &other]);
    assert!(!wrong.err.contains("damaged"), "{}", wrong.err);
    world.agent("verify --deep --identity other.txt").exits(1).says(&[&public]);
    world.agent("key check --identity other.txt").exits(1).says(&["failed", &public]);
    world.agent("verify").exits(0);
}

#[test]
fn looking_into_an_encrypted_backup_reads_only_what_it_needs() {
    let (world, _) = sealed("");
    world.write("data/big/text", &world.sh("seq 1 3000000"));
    world.sh("head -c 9000000 /dev/urandom > data/big/noise");
    world.agent("backup").exits(0);
    let key = "--identity key.txt";
    let data = world.path("data").display().to_string();
    world.agent(&format!("ls latest {data} {key}")).exits(0).says(&["index.php", "big/"]);
    world
        .agent(&format!("cat latest {data}/app/Models/User.php {key}"))
        .exits(0)
        .says(&["<?php class User {}"]);
    world.agent(&format!("cat latest --component ldap {key}")).exits(0).says(&["dn: one\ndn: two\n"]);
    let traced = world.sh(&format!(
        "strace -f -e trace=pread64,read -o trace -P \"$(echo local/*/*/*/*/*/application.tar.zst.age)\" \"$AGENT\" \
         --config config.toml restore latest {key} --path {path} --to one >&2
         awk -F'= ' '$NF ~ /^[0-9]+$/ {{ sum += $NF }} END {{ print sum }}' trace",
        path = &format!("{data}/app/Models/User.php")[1..]
    ));
    let read: u64 = traced.trim().parse().unwrap();
    assert!(read < 3 << 20, "{read} bytes were read for one small file");
    assert_eq!(world.read(below("one", &world, "data/app/Models/User.php")), "<?php class User {}\n");
    let first = world.agent("list --json").json()[0]["run_id"].as_str().unwrap().to_owned();
    world.write("data/index.php", "<?php echo 'changed';\n");
    world.agent("backup").exits(0);
    world.agent(&format!("diff {first} latest {key}")).exits(0).says(&["~", "index.php", "1 changed"]);
}

#[test]
fn damage_in_an_encrypted_archive_costs_the_files_in_it_and_no_others() {
    let (world, _) = sealed("");
    for i in 0..40 {
        world.sh(&format!("head -c 300000 /dev/urandom > data/noise{i:02}"));
    }
    world.agent("backup").exits(0);
    let archive = newest(&world).join("application.tar.zst.age");
    let length = fs::metadata(&archive).unwrap().len();
    let file = fs::OpenOptions::new().read(true).write(true).open(&archive).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 4], length / 2).unwrap();
    world.agent("verify").exits(1);
    world
        .agent("restore latest --identity key.txt --to whole")
        .exits(1)
        .says(&["cannot be decrypted", "--keep-going"]);
    let rest = world
        .agent("restore latest --identity key.txt --to rest --component application --keep-going")
        .exits(1);
    let lost: Vec<&str> = rest.out.lines().filter(|line| line.contains("not restored:")).collect();
    assert!((1..=12).contains(&lost.len()), "{}", rest.out);
    let back = world.sh(&format!("ls '{}'", world.path(below("rest", &world, "data")).display()));
    assert!(back.lines().count() + lost.len() >= 44, "{back}{}", rest.out);
    assert_eq!(world.read(below("rest", &world, "data/index.php")), "<?php echo 'hello';\n");
    // Cut off: what is before the cut comes back.
    file.write_all_at(&byte, length / 2).unwrap();
    file.set_len(length / 2).unwrap();
    world.agent("restore latest --identity key.txt --to cut").exits(1).says(&["is damaged", "--keep-going"]);
    let cut = world
        .agent("restore latest --identity key.txt --to cut2 --component application --keep-going")
        .exits(1);
    assert!(cut.out.contains("not restored:"), "{}", cut.out);
    assert_eq!(world.read(below("cut2", &world, "data/index.php")), "<?php echo 'hello';\n");
}

#[test]
fn other_recipients_hold_from_the_next_run_on_and_a_job_can_be_left_out() {
    let (world, first) = sealed("");
    world.agent("backup").exits(0);
    let second = generate(&world, "second.txt");
    world.write("config.toml", &world.read("config.toml").replace(&first, &second));
    world.agent("backup").exits(0);
    let runs: Vec<String> = world
        .agent("list --json")
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|copy| copy["run_id"].as_str().unwrap().to_owned())
        .collect();
    let [newer, older] = runs.as_slice() else { panic!("{runs:?}") };
    world.agent(&format!("ls {newer} --identity key.txt")).exits(1).says(&[&second]);
    world.agent(&format!("ls {newer} --identity second.txt")).exits(0);
    world.agent(&format!("ls {older} --identity key.txt")).exits(0);
    world.agent(&format!("diff {older} {newer} -i key.txt -i second.txt")).exits(0);
    let clear = format!("{}\n[job.web.encryption]\nenabled = false\n", world.read("config.toml"));
    world.write("config.toml", &clear);
    world.agent("backup").exits(0);
    assert!(newest(&world).join("application.tar.zst").exists());
    world.agent("key check --identity key.txt").exits(1).says(&["is not encrypted"]);
}

#[test]
fn a_private_key_among_the_public_ones_is_refused_and_not_shown() {
    let world = World::new(SIMPLE);
    world.sh("age-keygen -o key.txt 2>/dev/null; grep SECRET key.txt > private");
    let private = world.read("private").trim().to_owned();
    world.configure(&config(&format!("[encryption]\nrecipients = [\"{private}\"]\n")));
    for verb in ["config check", "backup", "check", "status"] {
        let said = world.agent(verb);
        assert_ne!(said.code, 0);
        let text = format!("{}{}", said.out, said.err);
        assert!(text.contains("PRIVATE key") && text.contains("config.toml:"), "{text}");
        assert!(!text.contains(&private[..30]), "{text}");
    }
    world.configure(&config("[encryption]\nrecipients_file = \"{}/key.txt\"\n"));
    let said = world.agent("config check").exits(2).says(&["key.txt, line 3", "PRIVATE key"]);
    assert!(!said.err.contains(&private[..30]), "{}", said.err);
}

#[test]
fn what_sources_put_down_on_the_way_is_never_at_the_target() {
    let (world, _) = sealed("[job.web.source.queue]\ntype = \"sqlite\"\npath = \"{}/queue.db\"\n");
    world.sh("sqlite3 queue.db \"CREATE TABLE t(x); INSERT INTO t VALUES ('row-canary')\"");
    // Its own copy of the database stands in the state folder while it runs, and what a dead run left goes.
    world.write("state/scratch/web/left-behind", "");
    let traced = world.sh(
        "strace -f -e trace=openat,mkdir -o trace \"$AGENT\" --config config.toml backup >&2
         grep -E 'O_CREAT|mkdir' trace | grep -c 'state/scratch/web'
         grep -E 'O_CREAT' trace | grep 'local/' | grep -vE '\\.age\"|RESTORE.txt|SHA256SUMS|manifest.json' || true",
    );
    let (inside, outside) = traced.split_once('\n').unwrap();
    assert!(inside.trim().parse::<u32>().unwrap() >= 1, "{traced}");
    assert!(!outside.contains("local/"), "{outside}");
    assert!(!world.path("state/scratch/web").exists());
    assert_eq!(world.sh("grep -rlaF row-canary local state || true"), "");
    // On a new host there is nothing but the target and the key.
    world.sh("mv local new-host; rm -r state config.toml");
    world.bare("--backups new-host restore latest -i key.txt --to back").exits(0);
    assert_eq!(world.sh("sqlite3 back/queue/queue.sqlite 'SELECT x FROM t'").trim(), "row-canary");
    world.bare("--backups new-host key check -i key.txt").exits(0).says(&["opened"]);
}

#[test]
fn a_full_disk_is_what_is_told_though_encryption_stands_before_it() {
    let (world, _) = sealed("");
    world.sh("head -c 9000000 /dev/urandom > data/noise");
    let mut full = world.shell("ulimit -f 4000; exec \"$AGENT\" --config config.toml backup");
    world.run(&mut full, "").exits(1).says(&["File too large"]);
    assert_eq!(world.sh("find local -mindepth 1; find state/scratch -mindepth 1"), "");
    world.agent("backup").exits(0);
}

#[test]
fn key_files_are_private_and_never_replaced() {
    let world = World::empty();
    let public = generate(&world, "key.txt");
    assert_eq!(fs::metadata(world.path("key.txt")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(world.sh("age-keygen -y key.txt").trim(), public);
    let before = world.read("key.txt");
    world.bare("key generate --output key.txt").exits(1).says(&["is left as it is"]);
    assert_eq!(world.read("key.txt"), before);
    let printed = world.bare("key generate").exits(0);
    world.write("printed.txt", &printed.out);
    assert_eq!(
        world.sh("age-keygen -y printed.txt").trim(),
        printed.err.trim().strip_prefix("public key: ").unwrap()
    );
}

#[test]
fn a_key_that_others_can_read_or_that_is_protected_is_refused_with_what_to_do() {
    let (world, public) = sealed("");
    world.agent("backup").exits(0);
    world.sh("ssh-keygen -q -t ed25519 -N hunter2 -f locked; cp key.txt open.txt; chmod 644 open.txt");
    world.agent("ls latest -i open.txt").exits(1).says(&["chmod 600"]);
    world.agent("ls latest -i locked").exits(1).says(&["protected by a passphrase", "ssh-keygen -p"]);
    world.agent("ls latest -i none.txt").exits(1).says(&["none.txt"]);
    world.write("public.txt", &public);
    fs::set_permissions(world.path("public.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    world.agent("ls latest -i public.txt").exits(1).says(&["holds a public key"]);
}

#[test]
fn a_drill_on_a_schedule_needs_the_key_and_works_with_it() {
    let (world, _) = sealed("[job.web.drill]\nschedule = \"@monthly\"\n");
    world.agent("config check").exits(2).says(&["config.toml:", "set `identity_file`"]);
    let with = world.read("config.toml") + &format!("identity_file = \"{}/key.txt\"\n", world.root());
    world.write("config.toml", &with);
    world.agent("config check").exits(0).says(&["  encrypted: web"]);
    world.agent("backup").exits(0);
    world.agent("drill").exits(0).says(&["came back from local"]);
    world.agent("config show").exits(0).says(&["recipients = [", "identity_file"]);
}
