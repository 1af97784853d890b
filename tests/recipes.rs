//! The recipes of docs/recipes.md, as they stand there, with other paths, against the real programs.
#![cfg(feature = "real-peers")]

#[path = "support/port.rs"]
mod port;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use world::invariants::Expect;
use world::{Setup, World, output, system, wait_for};

/// The configuration below a heading, with each text replaced, all of which must be there.
fn recipe(heading: &str, replace: &[(&str, &str)]) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("\n{heading}\n")).expect(heading);
    let (_, block) = section.split_once("```toml\n").expect("a configuration");
    let mut block = block.split_once("```").unwrap().0.to_owned();
    for (from, to) in replace {
        assert!(block.contains(from), "{from:?} is not in the recipe {heading}");
        block = block.replace(from, to);
    }
    block
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A component of the newest backup, as its recipe reads it.
fn component(world: &World, file: &str) -> String {
    format!("zstd -dc {}", world.newest("local").join(file).display())
}

fn shell(line: &str) -> String {
    system("bash", &["-o", "pipefail", "-c", line])
}

#[test]
fn an_ldap_directory_comes_back_and_half_of_it_is_no_backup() {
    let more = recipe("## LDAP (OpenLDAP)", &[("/etc/ldap/slapd.conf", "{root}/slapd.conf")]);
    let world = World::with(Setup { more, ..Setup::default() });
    let conf = |name: &str, data: &str| {
        world.write(
            name,
            format!(
                "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
                 database mdb\nsuffix \"dc=example,dc=org\"\ndirectory {}\n",
                world.path(data).display()
            ),
        );
        fs::create_dir(world.path(data)).unwrap();
        world.path(name).display().to_string()
    };
    let (own, fresh) = (conf("slapd.conf", "ldap"), conf("fresh.conf", "fresh"));
    let mut ldif =
        "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: example\n"
            .to_owned();
    for n in 0..300 {
        ldif.push_str(&format!("\ndn: ou=unit {n},dc=example,dc=org\nobjectClass: organizationalUnit\nou: unit {n}\ndescription: Grüße {n}\n"));
    }
    world.write("ldif", ldif);
    system("slapadd", &["-f", &own, "-n", "1", "-l", world.path("ldif").to_str().unwrap()]);
    let out = world.backup();
    world.after(&out, Expect::Success);
    shell(&format!("{} | slapadd -f {fresh} -n 1", component(&world, "directory.ldif.zst")));
    assert_eq!(system("slapcat", &["-f", &fresh, "-n", "1"]), system("slapcat", &["-f", &own, "-n", "1"]));

    // Cut in the middle of a line, with exit status 0.
    world.write("bin/slapcat", "#!/bin/sh\n/usr/sbin/slapcat \"$@\" | head -c 20001\n");
    fs::set_permissions(world.path("bin/slapcat"), fs::Permissions::from_mode(0o755)).unwrap();
    world.edit_config("\"slapcat\"", &format!("\"{}\"", world.path("bin/slapcat").display()));
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("not whole"), "{}", out.all());
}

fn etcd(data: &std::path::Path) -> (Ended, String) {
    let (client, peer) = (port::free(), port::free());
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let child = Command::new("etcd")
        .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
        .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
        .args(["--initial-cluster", &format!("default={}", url(peer)), "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is needed: install the package etcd-server");
    let server = Ended(child);
    wait_for("etcd", || output(etcdctl(&url(client), &["endpoint", "health"])).code == 0);
    (server, url(client))
}

fn etcdctl(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.args(args).env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", url);
    command
}

#[test]
fn an_etcd_snapshot_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (server, first) = etcd(&dir.path().join("data"));
    let more = recipe("## etcd", &[("http://127.0.0.1:2379", &first)]);
    let world = World::with(Setup { more, ..Setup::default() });
    output(etcdctl(&first, &["put", "colour", "green"])).expect(0);
    let out = world.backup();
    world.after(&out, Expect::Success);
    drop(server);
    let snapshot = dir.path().join("snapshot.db");
    shell(&format!("{} > {}", component(&world, "etcd.db.zst"), snapshot.display()));
    let restored = dir.path().join("restored");
    let args = ["snapshot", "restore", snapshot.to_str().unwrap(), "--data-dir", restored.to_str().unwrap()];
    output(etcdctl("", &args)).expect(0);
    let (_server, url) = etcd(&restored);
    assert_eq!(output(etcdctl(&url, &["get", "colour", "--print-value-only"])).stdout.trim(), "green");
    // Without a server there is no backup.
    world.edit_config(&first, "http://127.0.0.1:1");
    world.edit_config("timeout = \"30m\"", "timeout = \"5s\"");
    let out = world.backup();
    world.after(&out, Expect::Failure);
}

#[test]
fn the_mongodb_recipe_passes_its_dump_to_the_program_that_checks_it() {
    let config = "--config=/etc/backup-agent/mongodump.yaml";
    let more = recipe(
        "## MongoDB",
        &[("\"mongodump\"", "\"{root}/mongodump\""), ("\"mongorestore\"", "\"{root}/mongorestore\"")],
    );
    let world = World::with(Setup { more, ..Setup::default() });
    let program = |name: &str, text: &str| {
        world.write(name, format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    program(
        "mongodump",
        &format!("[ \"$*\" = '{config} --archive --oplog' ] || exit 2\nseq 1 90000\necho END"),
    );
    program(
        "mongorestore",
        &format!("[ \"$*\" = '{config} --archive --dryRun' ] || exit 2\n[ \"$(tail -n 1)\" = END ]"),
    );
    let out = world.backup();
    world.after(&out, Expect::Success);
    program("mongodump", "seq 1 90000");
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("not whole"), "{}", out.all());
}

/// A file system on a loop device, unmounted and given back with this value.
struct Loop {
    device: String,
    mount: std::path::PathBuf,
}

impl Loop {
    fn btrfs(dir: &std::path::Path) -> Self {
        let image = dir.join("image");
        fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        system("mkfs.btrfs", &["-q", image.to_str().unwrap()]);
        let need = "this test mounts a Btrfs file system on a loop device: it needs root, the kernel's loop and btrfs, and the package btrfs-progs";
        let out = output({
            let mut command = Command::new("losetup");
            command.args(["--find", "--show"]).arg(&image);
            command
        });
        assert_eq!(out.code, 0, "{need}: {}", out.all());
        let this = Self { device: out.stdout.trim().to_owned(), mount: dir.join("mnt") };
        fs::create_dir(&this.mount).unwrap();
        let mut command = Command::new("mount");
        command.arg(&this.device).arg(&this.mount);
        let out = output(command);
        assert_eq!(out.code, 0, "{need}: {}", out.all());
        this
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

#[test]
fn a_btrfs_snapshot_is_one_moment_and_goes_away_whatever_happens() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Loop::btrfs(dir.path());
    let srv = disk.mount.display().to_string();
    let mut more = recipe("### Btrfs", &[("/srv/", &format!("{srv}/"))]);
    // Somebody writes between the snapshot and the reading of it.
    more.push_str(&format!(
        "[job.web.hook.writer]\nsource = \"data\"\nbefore = [\"sh\", \"-c\", \"echo new >{srv}/data/file; test ! -e {srv}/fail\"]\n"
    ));
    let world = World::with(Setup { more, ..Setup::default() });
    system("btrfs", &["subvolume", "create", &format!("{srv}/data")]);
    let live = disk.mount.join("data/file");
    let snapshot = disk.mount.join(".backup");
    fs::write(&live, "old\n").unwrap();
    let out = world.backup();
    world.after(&out, Expect::Success);
    assert_eq!(fs::read_to_string(&live).unwrap(), "new\n");
    let inside = format!("{}/file", snapshot.display());
    let archive = world.newest("local").join("data.tar.zst");
    let stored = shell(&format!("tar --zstd -xOf {} {}", archive.display(), inside.trim_start_matches('/')));
    assert_eq!(stored, "old\n");
    assert!(!snapshot.exists(), "the snapshot is still there");
    // A run that fails while it reads.
    fs::write(disk.mount.join("fail"), "").unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(!snapshot.exists(), "the snapshot is still there");
    fs::remove_file(disk.mount.join("fail")).unwrap();
    #[cfg(feature = "failpoints")]
    {
        // A run that is killed while the snapshot is there.
        let paused = world.pause_at("capture-done", &["backup", "web", "--json"]);
        assert!(snapshot.exists());
        paused.signal("KILL");
        paused.wait();
        world.recover();
        assert!(!snapshot.exists(), "the snapshot is still there");
    }
}
