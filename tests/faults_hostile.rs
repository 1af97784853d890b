//! What must not get out, and what must not get in: archives made to do harm when they are restored, and
//! secrets. Rows 54 and 55 of the fault matrix.

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use world::smtp::{Security, SmtpServer};
use world::{Setup, World, finish, output, system, wait_for};

/// Makes a tar of entries that a backup never holds. Each is `(name, kind, argument)`.
const HOSTILE: &str = r#"
import io, json, sys, tarfile
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as tar:
    for name, kind, argument in json.loads(sys.argv[2]):
        entry = tarfile.TarInfo(name)
        entry.mode = 0o644
        content = None
        if kind == "file":
            content = argument.encode()
            entry.size = len(content)
        elif kind == "setid":
            entry.mode = 0o6755
            content = b'#!/bin/sh'
            entry.size = len(content)
        elif kind == "dir":
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        elif kind == "symlink":
            entry.type, entry.linkname = tarfile.SYMTYPE, argument
        elif kind == "link":
            entry.type, entry.linkname = tarfile.LNKTYPE, argument
        elif kind in ("char", "block"):
            entry.type = tarfile.CHRTYPE if kind == "char" else tarfile.BLKTYPE
            entry.devmajor, entry.devminor = 1, 3
        elif kind == "fifo":
            entry.type = tarfile.FIFOTYPE
        tar.addfile(entry, io.BytesIO(content) if content is not None else None)
"#;

/// Puts such an archive in place of a backup's, with manifest and sums that fit it: somebody who can write
/// to the target can do that.
fn plant(world: &World, entries: &Value) -> String {
    let newest = world.list()[0].clone();
    let folder = world.folder(&newest);
    let (tar, archive) = (world.path("hostile.tar"), folder.join("application.tar.zst"));
    system("python3", &["-c", HOSTILE, tar.to_str().unwrap(), &entries.to_string()]);
    system("zstd", &["-qf", tar.to_str().unwrap(), "-o", archive.to_str().unwrap()]);
    let sum = system("sha256sum", &[archive.to_str().unwrap()]);
    let sum = sum.split(' ').next().unwrap();
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let component = &mut manifest["components"][0];
    let old = component["sha256"].as_str().unwrap().to_owned();
    component["sha256"] = json!(sum);
    component["stored_bytes"] = json!(fs::metadata(&archive).unwrap().len());
    component["raw_bytes"] = json!(fs::metadata(&tar).unwrap().len());
    component["entries"] = json!(entries.as_array().unwrap().len());
    component["frames"] = json!(1);
    let index = component.as_object_mut().unwrap().remove("index").unwrap();
    fs::remove_file(folder.join(index["file"].as_str().unwrap())).unwrap();
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap().replace(&old, sum);
    let without_index: String =
        sums.lines().filter(|l| !l.ends_with(".index.zst")).map(|l| format!("{l}\n")).collect();
    fs::write(folder.join("SHA256SUMS"), without_index).unwrap();
    newest["run_id"].as_str().unwrap().to_owned()
}

/// Every path below a folder, with its content.
fn everything(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.push((path.display().to_string(), content));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_hostile_archive_writes_nothing_outside_the_restore_folder() {
    let world = World::new();
    world.recover();
    world.write("outside/passwd", "root");
    let outside = world.path("outside").display().to_string();
    let absolute = format!("{outside}/absolute");
    let entries = json!([
        ["good.txt", "file", "good"],
        ["../escape", "file", "x"],
        ["a/../../escape", "file", "x"],
        ["inner/..", "dir", ""],
        [absolute, "file", "x"],
        // Through a symbolic link, absolute and relative, to a folder and to a file.
        ["way", "symlink", outside],
        ["way/through", "file", "x"],
        ["way", "dir", ""],
        ["way/through-dir", "file", "x"],
        ["up", "symlink", "../outside"],
        ["up/through", "file", "x"],
        ["victim", "symlink", format!("{outside}/passwd")],
        ["victim", "file", "overwritten"],
        // Hard links to what is outside, by every way.
        ["h1", "link", format!("{outside}/passwd")],
        ["h2", "link", "../outside/passwd"],
        ["h3", "link", "way/passwd"],
        ["h4", "link", "up/passwd"],
        ["h3", "file", "overwritten"],
        ["null", "char", ""],
        ["disk", "block", ""],
        ["pipe", "fifo", ""],
        ["tool", "setid", ""],
        ["last.txt", "file", "still restored"],
    ]);
    let run = plant(&world, &entries);
    let before = everything(&world.path("outside"));
    for force in [false, true] {
        let to = world.path(&format!("restored-{force}"));
        let mut args = vec!["restore", &run, "--to", to.to_str().unwrap()];
        args.extend(force.then_some("--force"));
        let out = world.run(&args).expect(1);
        assert_eq!(everything(&world.path("outside")), before, "force {force}: {}", out.all());
        for name in ["escape", "absolute", "through"] {
            assert!(!world.path(name).exists(), "{name} escaped");
        }
        assert_eq!(fs::read(to.join("good.txt")).unwrap(), b"good");
        assert_eq!(fs::read(to.join("last.txt")).unwrap(), b"still restored");
        for name in ["null", "disk", "pipe"] {
            assert!(fs::symlink_metadata(to.join(name)).is_err(), "{name} was made");
        }
        let mode = fs::metadata(to.join("tool")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755, "the set-uid bit was kept");
        for refused in ["../escape", "absolute", "way/through", "up/through", "h1", "h2", "null", "disk"] {
            assert!(out.stdout.contains(refused), "{refused} is not among what was refused: {}", out.stdout);
        }
        // Nothing in the folder shares its content with what is outside.
        let passwd = fs::metadata(world.path("outside/passwd")).unwrap();
        assert_eq!(passwd.nlink(), 1, "a hard link to a file outside was made");
    }
    let to = world.path("restored-setid");
    world.run(&["restore", &run, "--allow-setid", "--to", to.to_str().unwrap()]).expect(1);
    assert_eq!(fs::metadata(to.join("tool")).unwrap().mode() & 0o7777, 0o6755);
}

#[test]
fn a_restore_folder_reached_by_a_symbolic_link_inside_it_is_not_left() {
    // The second restore into the same folder, whose content somebody else changed meanwhile.
    let world = World::new();
    world.recover();
    world.write("outside/passwd", "root");
    let run = plant(&world, &json!([["etc", "dir", ""], ["etc/passwd", "file", "overwritten"]]));
    let to = world.path("restored");
    fs::create_dir(&to).unwrap();
    std::os::unix::fs::symlink(world.path("outside"), to.join("etc")).unwrap();
    world.run(&["restore", &run, "--force", "--to", to.to_str().unwrap()]).expect(1);
    assert_eq!(fs::read(world.path("outside/passwd")).unwrap(), b"root");
}

const CANARIES: [&str; 4] = ["CANARYsmtp7Qf3", "CANARYdump9Zk1", "CANARYheart4Lw8", "CANARYenviron2Mb6"];

#[track_caller]
fn no_canary(what: &str, text: &[u8]) {
    for canary in CANARIES {
        let found = text.windows(canary.len()).any(|w| w == canary.as_bytes());
        assert!(!found, "{canary} stands in {what}");
    }
}

/// The command lines of all processes.
fn command_lines() -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(line) = fs::read(entry.path().join("cmdline")) {
            all.extend(line);
            all.push(b'\n');
        }
    }
    all
}

#[test]
fn secrets_are_in_no_log_mail_metric_process_list_manifest_or_state() {
    let more = r#"
[job.web.source.database]
type = "command"
command = ["sh", "{root}/dump.sh"]
env_file = { DUMP_PASSWORD = "{root}/dump-password" }
[job.web.source.shop]
type = "mysql"
host = "127.0.0.1"
port = 1
user = "backup"
program = "{root}/mysqldump"
[notify.watchdog]
type = "heartbeat"
url_file = "{root}/heartbeat-url"
"#;
    let notify = "user = \"backup\"\npassword_file = \"{root}/smtp-password\"\nsuccess = \"always\"";
    let world = World::with(Setup { more: more.to_owned(), notify, ..Setup::default() });
    let [smtp, dump, heart, environ] = CANARIES;
    let secrets = [
        ("smtp-password", smtp.to_owned()),
        ("dump-password", dump.to_owned()),
        ("heartbeat-url", format!("http://127.0.0.1:1/ping/{heart}")),
    ];
    for (file, secret) in &secrets {
        world.write(file, secret);
        fs::set_permissions(world.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let server = SmtpServer::start(Security::Plain, None, Some(("backup", smtp)));
    world.write_config(&server.url());
    let agent = |args: &[&str]| {
        let mut command = world.agent(args);
        command.env("BACKUP_AGENT__JOB__WEB__SOURCE__SHOP__PASSWORD", environ);
        command
    };
    // Stands still where the dump has its password, and says that it has it.
    let (ready, go) = (world.path("ready"), world.path("go"));
    let wait = format!("touch {}; while ! test -e {}; do sleep 0.05; done", ready.display(), go.display());
    let good = format!("test \"$DUMP_PASSWORD\" = {dump} || exit 9; {wait}; echo dump");
    // The password is compared in the script's file, not on a command line.
    world.write("dump.sh", &good);
    world.write(
        "mysqldump",
        "#!/bin/sh\nfor f in \"$@\"; do case $f in --defaults*) cat \"${f#*=}\" >&2;; esac; done\nexit 2\n",
    );
    fs::set_permissions(world.path("mysqldump"), fs::Permissions::from_mode(0o755)).unwrap();

    // A run that fails, with every source and channel in it; the most talkative log.
    let mut said = Vec::new();
    for script in [good.as_str(), "env >&2; exit 5"] {
        world.write("dump.sh", script);
        let _ = (fs::remove_file(&ready), fs::remove_file(&go));
        let mut command = agent(&["-vv", "backup", "web", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if script == good.as_str() {
            // Preflight may refuse the database first; then there is nothing to look at.
            let mut child = child;
            let begun = std::time::Instant::now();
            while !ready.exists() && child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed().as_secs() < 120);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            no_canary("the process list", &command_lines());
            fs::write(&go, "").unwrap();
            said.push(finish(child));
        } else {
            said.push(finish(child));
        }
    }
    // The same without the database that cannot be reached: a run that gets to the dump, and is good.
    world.edit_config("[job.web.source.shop]", "[job.other.source.shop]");
    world.edit_config("[notify.watchdog]", "[job.other]\ntargets = [\"local\"]\n[notify.watchdog]");
    world.edit_config("path = \"", "template = \"{job}/%Y%m%dT%H%M%S\"\npath = \"");
    for (script, code) in [(good.as_str(), 0), ("env >&2; exit 5", 1)] {
        world.write("dump.sh", script);
        let _ = (fs::remove_file(&ready), fs::remove_file(&go));
        let mut command = world.agent(&["-vv", "backup", "web", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if code == 0 {
            wait_for("the dump", || ready.exists());
            no_canary("the process list", &command_lines());
            fs::write(&go, "").unwrap();
        }
        said.push(finish(child).expect(code));
    }
    assert!(!server.mails().is_empty(), "no mail was sent: {:?}", said.last());
    for verb in [
        &["metrics"][..],
        &["status"],
        &["list", "--json"],
        &["history", "--json"],
        &["notify", "queue", "--json"],
        &["notify", "test"],
        &["check", "--json"],
        &["config", "show"],
        &["config", "check"],
        &["show", "latest", "--job", "web", "--log", "--json"],
    ] {
        said.push(output(world.agent(&[&["-vv"], verb].concat())));
    }
    for run in world.history() {
        said.push(world.run(&["show", run["run_id"].as_str().unwrap(), "--log", "--json"]));
    }
    for out in &said {
        no_canary("the output of a command", out.all().as_bytes());
    }
    for mail in server.mails() {
        no_canary("a mail on the wire", &mail.data);
        no_canary("a mail", mail.parsed().to_string().as_bytes());
    }
    for (path, content) in
        everything(&world.path("state")).into_iter().chain(everything(&world.path("local")))
    {
        no_canary(&path, &content);
    }
}
