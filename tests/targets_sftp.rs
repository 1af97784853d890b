//! Targets on another machine: a real sshd, logins and host keys that are right and wrong, and what fails in the
//! middle.
#![cfg(feature = "real-peers")]

#[path = "support/mount.rs"]
mod mount;
mod peers;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backup_agent::config::TargetConfig;
use backup_agent::event::Progress;
use backup_agent::manifest;
use backup_agent::model::RunId;
use backup_agent::target::{self, Cache, Published, Target, is_permanent};
use mount::Mount;
use peers::sshd::{self, Sshd, keygen};
use world::{Setup, World, system};

/// A world whose job also goes to `[target.vault]`: a folder at an sshd.
fn with_vault(sshd: &Sshd, more: &str) -> World {
    let vault = sshd.folder("vault");
    let more = format!("[target.vault]\n{}{more}", sshd.lines(&vault));
    let world = World::with(Setup { more, ..Setup::default() });
    world.edit_config(r#"targets = ["local"]"#, r#"targets = ["local", "vault"]"#);
    world
}

fn target_of(lines: &str) -> Box<dyn Target> {
    let config: TargetConfig = toml::from_str(lines).unwrap();
    target::open(&"vault".parse().unwrap(), &config, None, None).unwrap()
}

/// What `probe` of a target refuses with, and whether trying again is said to make no sense.
#[track_caller]
fn refused(lines: &str) -> (String, bool) {
    let error = target_of(lines).probe().unwrap_err();
    (format!("{error:#}"), is_permanent(&error))
}

fn run(letters: &str) -> RunId {
    format!("20261124T180000Z-{letters}").parse().unwrap()
}

/// Every folder with a manifest at the server, hidden ones left out.
fn stored(vault: &Path) -> Vec<PathBuf> {
    let all = system(
        "find",
        &[vault.to_str().unwrap(), "-name", ".*", "-prune", "-o", "-name", manifest::FILE, "-print"],
    );
    all.lines().map(|line| Path::new(line).parent().unwrap().to_owned()).collect()
}

/// The folder `src` of a restored backup.
fn restored(to: &Path) -> PathBuf {
    system("find", &[to.to_str().unwrap(), "-type", "d", "-name", "src"]).lines().next().unwrap().into()
}

#[track_caller]
fn same_tree(a: &Path, b: &Path) {
    system("diff", &["-r", "--no-dereference", a.to_str().unwrap(), b.to_str().unwrap()]);
}

fn at_vault(world: &World) -> Vec<serde_json::Value> {
    world.list().into_iter().filter(|copy| copy["target"] == "vault").collect()
}

#[test]
fn copies_at_an_sshd_are_listed_verified_restored_pruned_and_known_again() {
    let sshd = Sshd::start();
    let world = with_vault(&sshd, "keep = { last = 1 }\n");
    let vault = sshd.path("vault");
    let out = world.run(&["target", "init", "vault"]).expect(0);
    assert!(out.all().contains("file system sftp") && out.all().contains("sftp://"), "{}", out.all());
    world.backup().expect(0);
    let copies = at_vault(&world);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0]["status"], "verified");
    let folder = vault.join(copies[0]["location"].as_str().unwrap());
    assert_eq!(stored(&vault), std::slice::from_ref(&folder));
    // As it lies there, it is a backup like any other.
    let sums = Command::new("sha256sum").args(["-c", "--quiet", "SHA256SUMS"]).current_dir(&folder).status();
    assert!(sums.unwrap().success());
    let mode = fs::metadata(folder.join(manifest::FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read it");

    world.run(&["verify", "latest", "--target", "vault"]).expect(0);
    let out = world.run(&[
        "cat",
        "latest",
        "--target",
        "vault",
        &format!("{}/src/version.txt", world.root().display()),
    ]);
    assert_eq!(out.expect(0).stdout, "1");
    let to = world.path("back");
    world.run(&["restore", "latest", "--target", "vault", "--to", to.to_str().unwrap()]).expect(0);
    same_tree(&world.path("src"), &restored(&to));

    world.change();
    world.backup().expect(0);
    assert_eq!(stored(&vault).len(), 1, "retention did not remove the older one");
    assert!(!folder.exists());

    // With an empty state everything is known again from there.
    fs::remove_dir_all(world.path("state")).unwrap();
    let out = world.run(&["target", "scan", "vault", "--adopt"]).expect(0);
    assert!(out.all().contains("1 backup recorded"), "{}", out.all());
    world.run(&["verify", "latest", "--target", "vault"]).expect(0);
}

#[test]
fn an_sshd_can_be_the_only_target() {
    let sshd = Sshd::start();
    let world = with_vault(&sshd, "");
    world.edit_config(r#"targets = ["local", "vault"]"#, r#"targets = ["vault"]"#);
    world.backup().expect(0);
    assert_eq!(stored(&sshd.path("vault")).len(), 1);
    assert_eq!(world.list()[0]["status"], "verified");
    let to = world.path("back");
    world.run(&["restore", "latest", "--to", to.to_str().unwrap()]).expect(0);
    same_tree(&world.path("src"), &restored(&to));
    assert_eq!(fs::read_dir(sshd.path("vault")).unwrap().count(), 1, "something was left there");
}

#[test]
fn keys_that_are_not_known_changed_or_not_accepted_are_final_and_say_what_to_do() {
    let mut sshd = Sshd::start();
    let vault = sshd.folder("vault");
    let lines = sshd.lines(&vault);
    let pin = format!("host_key = \"{}\"\n", sshd.host_key());
    let known = sshd.path("known_hosts");
    let by_file = lines.replace(&pin, &format!("known_hosts_file = \"{}\"\n", known.display()));
    target_of(&lines).probe().unwrap();

    // A file of known hosts without it, then with it.
    fs::write(&known, "").unwrap();
    let (text, is_final) = refused(&by_file);
    assert!(
        is_final && text.contains("is not known") && text.contains("agent target host-key vault"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(&known).unwrap(), "", "the key was taken over");
    fs::write(&known, format!("[127.0.0.1]:{} {}\n", sshd.port, sshd.host_key())).unwrap();
    target_of(&by_file).probe().unwrap();
    // The client's own files do not know it.
    let (text, is_final) = refused(&lines.replace(&pin, ""));
    assert!(is_final && text.contains("is not known"), "{text}");

    // A key the server does not accept, and one that is not there.
    keygen(&sshd.path("other"), "ed25519");
    let identity = sshd.path("id").display().to_string();
    let (text, is_final) = refused(&lines.replace(&identity, &sshd.path("other").display().to_string()));
    assert!(is_final && text.contains("does not accept the key") && text.contains("/other"), "{text}");
    let (text, is_final) = refused(&lines.replace(&identity, "/nonexistent/key"));
    assert!(is_final && text.contains("/nonexistent/key does not exist"), "{text}");

    // The server gets another key, of the same kind and of another.
    sshd.kill();
    for (kind, says) in [("ed25519", "is not the one that is expected"), ("ecdsa", "no host key of the kind")]
    {
        for end in ["", ".pub"] {
            fs::remove_file(sshd.path(&format!("hostkey{end}"))).unwrap();
        }
        keygen(&sshd.path("hostkey"), kind);
        sshd.run();
        let now = lines.replace(&lines_port(&lines), &format!("port = {}\n", sshd.port));
        let (text, is_final) = refused(&now);
        assert!(is_final && text.contains(says) && text.contains("nothing was sent"), "{text}");
        sshd.kill();
    }
    // Nobody there: that may pass.
    let (text, is_final) = refused(&lines);
    assert!(!is_final && text.contains("connecting to 127.0.0.1 failed"), "{text}");
    assert_eq!(fs::read_dir(vault).unwrap().count(), 0);
}

fn lines_port(lines: &str) -> String {
    format!("{}\n", lines.lines().find(|line| line.starts_with("port")).unwrap())
}

#[test]
fn the_host_keys_of_a_server_are_shown_as_lines_for_the_configuration() {
    let sshd = Sshd::start();
    let world = with_vault(&sshd, "");
    let out = world.run(&["target", "host-key", "vault"]).expect(0);
    assert!(out.stdout.contains(&format!("host_key = \"{}\"", sshd.host_key())), "{}", out.all());
    assert!(out.stdout.contains("this one is pinned"), "{}", out.all());
    let shown = system("ssh-keygen", &["-lf", sshd.path("hostkey.pub").to_str().unwrap()]);
    let keys = world.run(&["target", "host-key", "vault", "--json"]).expect(0).json();
    assert!(shown.contains(keys["keys"][0]["fingerprint"].as_str().unwrap()), "{shown} {keys}");
    keygen(&world.path("other"), "ed25519");
    let other = fs::read_to_string(world.path("other.pub")).unwrap();
    world.edit_config(&sshd.host_key(), other.trim());
    let out = world.run(&["target", "host-key", "vault"]).expect(1);
    assert!(out.stderr.contains("none of them is the one that is pinned"), "{}", out.all());
    world.run(&["target", "host-key", "local"]).expect(2);
}

#[test]
fn a_folder_that_is_missing_full_or_read_only_is_told_as_such() {
    let sshd = Sshd::start();
    let (text, is_final) = refused(&sshd.lines(&sshd.path("nowhere")));
    assert!(is_final && text.contains("does not exist; make it at 127.0.0.1"), "{text}");
    assert!(!sshd.path("nowhere").exists());
    let missing = target_of(&sshd.lines(&sshd.path("nowhere")));
    let id = run("aaaaaa");
    let error = missing.stage(&id, &["a/b".to_owned()]).err().expect("it was made");
    assert!(format!("{error:#}").contains("mkdir -p"), "{error:#}");

    let vault = sshd.folder("vault");
    let target = target_of(&sshd.lines(&vault));
    {
        let _mounted = Mount::new(&vault, "size=6m");
        target.probe().unwrap();
        let mut stage = target.stage(&id, &["a/b".to_owned()]).unwrap();
        let mut file = stage.create("files.tar.zst").unwrap();
        let block = vec![7; 1 << 20];
        let failed = (0..64).find_map(|_| file.write_all(&block).err()).expect("64 MiB went into 6");
        assert!(failed.to_string().contains("no room left"), "{failed}");
        drop(file);
        stage.abandon().unwrap();
        assert_eq!(fs::read_dir(&vault).unwrap().count(), 0);
        fs::write(vault.join("filler"), vec![0; (6 << 20) - 4096]).unwrap();
        let error = target.probe().unwrap_err();
        assert!(format!("{error:#}").contains("no room left"), "{error:#}");
        // A small file, whose bytes are all on their way before the first answer.
        let mut stage = target.stage(&id, &["a/b".to_owned()]).unwrap();
        let mut file = stage.create("files.tar.zst").unwrap();
        file.write_all(&block[..100_000]).unwrap();
        assert!(file.finish(100_000).is_err(), "a file that is not there counts");
    }
    let _mounted = Mount::new(&vault, "size=6m,ro");
    let error = target.probe().unwrap_err();
    assert!(format!("{error:#}").contains("read-only"), "{error:#}");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_server_that_dies_in_the_middle_leaves_nothing_visible_and_the_next_attempt_works() {
    let mut sshd = Sshd::start();
    let world = with_vault(&sshd, "");
    let vault = sshd.path("vault");
    let port = sshd.port;
    for place in ["vault:write", "vault:finish", "vault:rename"] {
        world.change();
        let paused = world.pause_at(place, &["backup", "web", "--json"]);
        sshd.kill();
        let before = stored(&vault);
        let out = paused.go_on();
        assert_eq!(out.code, 4, "{place}: {}", out.all());
        assert_eq!(stored(&vault), before, "{place}");
        sshd.run();
        assert_eq!(sshd.port, port, "the port was taken meanwhile");
        let out = world.run(&["tend", "--retry"]).expect(0);
        assert_eq!(stored(&vault).len(), before.len() + 1, "{place}: {}", out.all());
        assert!(at_vault(&world).iter().all(|copy| copy["status"] == "verified"), "{place}");
        let hidden = fs::read_dir(&vault).unwrap().map(|e| e.unwrap().file_name());
        let hidden: Vec<_> = hidden.filter(|name| name.as_encoded_bytes().starts_with(b".")).collect();
        assert!(hidden.is_empty(), "{place}: {hidden:?}");
    }
}

#[test]
fn a_connection_that_breaks_while_it_reads_is_made_anew() {
    let mut sshd = Sshd::start();
    let vault = sshd.folder("vault");
    let bytes: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::create_dir(vault.join("a")).unwrap();
    fs::write(vault.join("a/files.tar.zst"), &bytes).unwrap();
    let target = target_of(&sshd.lines(&vault));
    let mut file = target.open("a", "files.tar.zst", Cache::Cold).unwrap();
    let mut read = vec![0; 1000];
    std::io::Read::read_exact(&mut file, &mut read).unwrap();
    let port = sshd.port;
    sshd.kill();
    sshd.run();
    assert_eq!(sshd.port, port, "the port was taken meanwhile");
    std::io::Read::read_to_end(&mut file, &mut read).unwrap();
    assert!(read == bytes);
    assert_eq!(file.read_at().read_exact_at(1_000_000, 5).unwrap(), bytes[1_000_000..1_000_005]);
}

#[test]
fn what_is_no_sftp_server_is_told_as_such() {
    let sshd = Sshd::with("ForceCommand echo Welcome to this machine; sleep 1\n");
    let (text, is_final) = refused(&sshd.lines(&sshd.folder("vault")));
    assert!(is_final && text.contains("offers no SFTP"), "{text}");
    let sshd = Sshd::with("Subsystem sftp echo Welcome to this machine; sleep 1\n");
    let (text, is_final) = refused(&sshd.lines(&sshd.folder("vault")));
    assert!(is_final && text.contains("Welcome") && text.contains("must print nothing"), "{text}");
}

/// The user every Debian has for this.
const ACCOUNT: &str = "backup";

/// What docs/targets.md gives for a server that takes files and lets nobody change or remove them.
const APPEND_ONLY: &str =
    "ForceCommand internal-sftp -p open,close,write,mkdir,stat,lstat,fstat,realpath,statvfs,fsync,limits\n";

#[test]
fn an_account_that_may_only_add_takes_backups_and_nobody_with_its_key_destroys_them() {
    assert!(include_str!("../docs/targets.md").contains(APPEND_ONLY.trim()), "the recipe is another one");
    let sshd = Sshd::with(&format!("Subsystem sftp internal-sftp\n{APPEND_ONLY}"));
    let vault = sshd.folder("vault");
    system("chown", &[ACCOUNT, vault.to_str().unwrap()]);
    let lines =
        sshd.lines(&vault).replace(&format!("user = \"{}\"", sshd::user()), &format!("user = \"{ACCOUNT}\""));
    let target = target_of(&format!("{lines}write_only = true\n"));
    target.probe().unwrap();
    let id = run("aaaaaa");
    let locations = vec!["web1/1900".to_owned(), format!("web1/1900-{id}")];
    let text = serde_json::json!({
        "version": 1, "run_id": id, "job": "web", "instance_id": "i", "host": "web1", "agent_version": "1",
        "timezone": "UTC", "started": "2026-11-24T18:00:00Z", "ended": "2026-11-24T18:01:00Z",
        "outcome": "success", "codec": "zstd", "encryption": "none", "components": [],
    })
    .to_string();
    let attempt = |publish: bool| {
        let mut stage = target.stage(&id, &locations).unwrap();
        for (name, bytes) in [("files.tar.zst", &b"content"[..]), (manifest::FILE, text.as_bytes())] {
            let mut file = stage.create(name).unwrap();
            file.write_all(bytes).unwrap();
            file.finish(bytes.len() as u64).unwrap();
        }
        let location = stage.settled().unwrap().to_owned();
        if publish {
            assert_eq!(stage.publish(&location).unwrap(), Published::Done);
        }
        location
    };
    // One that broke off, and the next.
    let broken = attempt(false);
    let location = attempt(true);
    assert_ne!(broken, location);

    // Whoever has the key of the host tries all that the protocol offers.
    let file = vault.join(&location).join("files.tar.zst");
    let known = sshd.path("known_hosts");
    fs::write(&known, format!("[127.0.0.1]:{} {}\n", sshd.port, sshd.host_key())).unwrap();
    let junk = sshd.path("junk");
    fs::write(&junk, "junk that is longer than what is there").unwrap();
    let (shown, folder, junk) = (file.display(), vault.join(&location).display().to_string(), junk.display());
    let link = format!("{folder}/link");
    for attack in [
        format!("rm {shown}"),
        format!("rename {shown} {folder}/x"),
        format!("rename {folder} {folder}-x"),
        format!("chmod 600 {shown}"),
        format!("put {junk} {shown}"),
        format!("reput {junk} {shown}"),
        format!("ln -s {shown} {link}"),
        format!("get {shown} /dev/null"),
        format!("rmdir {folder}"),
    ] {
        let mut command = Command::new("sftp");
        command.args(["-b", "-", "-P", &sshd.port.to_string(), "-o", "StrictHostKeyChecking=yes", "-i"]);
        command.arg(sshd.path("id")).arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        command
            .arg(format!("{ACCOUNT}@127.0.0.1"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{attack}\n").as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{attack} worked");
        assert!(said.contains("ermission denied"), "{attack}: {said}");
        assert_eq!(fs::read(&file).unwrap(), b"content", "{attack}");
    }
    // The program itself, with a primary target of its own.
    let more = format!("[target.vault]\n{lines}write_only = true\n");
    let world = World::with(Setup { more, ..Setup::default() });
    world.edit_config(r#"targets = ["local"]"#, r#"targets = ["local", "vault"]"#);
    let made = world.run(&["backup", "web"]).expect(0).all();
    assert!(made.contains("copied: vault (not read back: the target is write-only)"), "{made}");
    assert_eq!(at_vault(&world)[0]["status"], "complete", "what was not read back is not verified");

    // An admin with other rights reads it like any other target.
    let admin = target_of(&sshd_without_force(&vault));
    let scan = admin.scan(&Progress::default()).unwrap();
    assert_eq!(scan.found.len(), 2, "{:?}", scan.found);
    assert!(scan.found.iter().any(|found| found.location == location));
}

/// The lines of a target that reads the folder as it stands, by another server.
fn sshd_without_force(vault: &Path) -> String {
    format!("type = \"directory\"\npath = \"{}\"\n", vault.display())
}
