//! File systems that are full, limited, read-only, or not mounted. Rows 1 to 4, 28 to 30 and 32 of the
//! fault matrix. They mount file systems, and so need root.
#![cfg(feature = "real-peers")]

#[path = "support/mount.rs"]
mod mount;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use mount::Mount;
use world::invariants::Expect;
use world::{Setup, World, below_no_mount, output, system};

/// A file system whose server never answers: whoever looks at it waits in the kernel.
struct HungShare {
    path: PathBuf,
    /// Holds the server's end.
    holder: std::process::Child,
}

impl HungShare {
    fn new(path: &Path) -> Self {
        let script = r#"exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung "$1" && echo up && exec sleep 3600"#;
        let mut holder = std::process::Command::new("bash")
            .args(["-c", script, "bash", path.to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "mounting a share that hangs at {}", path.display());
        Self { path: path.to_owned(), holder }
    }
}

impl Drop for HungShare {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.path).status();
        // With its server, the share ends for those who wait for it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Lets the source become too big for the target, and small again when dropped.
struct Bulk(PathBuf);

impl Bulk {
    fn files(world: &World, count: usize, bytes: usize) -> Self {
        let mut state = 1u64;
        for i in 0..count {
            let noise = (0..bytes.div_ceil(8)).flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state ^ (state >> 29)).to_le_bytes()
            });
            world.write(&format!("src/bulk/{i}"), noise.collect::<Vec<u8>>());
        }
        world.exempt("bulk/");
        Self(world.path("src/bulk"))
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_full_target_fails_the_run_and_leaves_nothing_of_it() {
    let world = World::new();
    let _mount = Mount::new(&world.path("local"), "size=8m");
    world.recover();
    // More than fits, in one file and in many.
    for (count, bytes) in [(1, 12_000_000), (300, 40_000)] {
        let bulk = Bulk::files(&world, count, bytes);
        let out = world.backup();
        world.after(&out, Expect::Failure);
        assert!(out.all().contains("No space left"), "{}", out.all());
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        drop(bulk);
        world.recover();
    }
}

#[test]
fn a_target_that_is_full_before_the_run_fails_it_in_preflight() {
    let world = World::new();
    let _mount = Mount::new(&world.path("local"), "size=4m");
    world.recover();
    world.write("local/somebody-elses", vec![1; 3_000_000]);
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("no room left"), "{}", out.all());
    assert_eq!(world.history()[0]["failed_step"], "preflight");
    fs::remove_file(world.path("local/somebody-elses")).unwrap();
    world.recover();
}

#[test]
fn a_full_disk_does_not_end_everything_while_expired_backups_can_go() {
    let world = World::with(Setup { local: "keep = { last = 3 }", ..Setup::default() });
    let _mount = Mount::new(&world.path("local"), "size=4m");
    for _ in 0..3 {
        world.recover();
    }
    world.edit_config("keep = { last = 3 }", "keep = { last = 1 }");
    world.write("local/somebody-elses", vec![1; 2_400_000]);
    let out = world.backup();
    world.after(&out, Expect::Success);
    assert!(out.all().contains("expired backups were removed first"), "{}", out.all());
    world.recover();
}

#[test]
fn a_target_without_inodes_fails_the_run() {
    let world = World::new();
    let mount = Mount::new(&world.path("local"), "size=8m,nr_inodes=60");
    world.recover();
    // None at all, and too few in the middle of it.
    for left in [0, 1, 3, 6] {
        let mut hogs = Vec::new();
        while free_inodes(mount.path()) > left {
            let hog = mount.path().join(format!("hog-{}", hogs.len()));
            fs::write(&hog, "").unwrap();
            hogs.push(hog);
        }
        eprintln!("{left} inodes left");
        let out = world.backup();
        world.after(&out, Expect::Failure);
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        hogs.iter().for_each(|hog| fs::remove_file(hog).unwrap());
        world.recover();
    }
}

fn free_inodes(path: &Path) -> u64 {
    system("stat", &["-f", "-c", "%d", path.to_str().unwrap()]).trim().parse().unwrap()
}

#[test]
fn a_full_further_target_degrades_the_run_and_gets_its_copy_later() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    let _mount = Mount::new(&world.path("nas"), "size=6m");
    world.recover();
    let bulk = Bulk::files(&world, 1, 8_000_000);
    let out = world.backup();
    world.after(&out, Expect::Degraded);
    assert!(out.all().contains("No space left"), "{}", out.all());
    drop(bulk);
    // The one that is too big keeps failing; newer ones are made all the same.
    world.recover();
    _mount.remount("size=20m");
    world.catch_up();
    world.recover();
}

#[test]
fn a_limit_of_file_sizes_fails_the_run_instead_of_killing_the_process() {
    let world = World::new();
    world.recover();
    let limited = |bytes: &str| {
        let limit = format!("--fsize={bytes}");
        output(world.under(&["prlimit", &limit], &["backup", "web", "--json"]))
    };
    // The state and the mails need some hundred kilobytes; the archive needs more.
    let bulk = Bulk::files(&world, 3, 1_000_000);
    let out = limited("1500000");
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("too large"), "{}", out.all());
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    let out = limited("20000000");
    world.after(&out, Expect::Success);
    drop(bulk);
    world.recover();
}

#[test]
fn a_target_that_becomes_read_only_fails_or_degrades_the_run() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    let local = Mount::new(&world.path("local"), "size=20m");
    let nas = Mount::new(&world.path("nas"), "size=20m");
    world.recover();
    nas.remount("ro");
    let out = world.backup();
    world.after(&out, Expect::Degraded);
    nas.remount("rw");
    world.catch_up();
    local.remount("ro");
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(out.all().contains("Read-only"), "{}", out.all());
    local.remount("rw");
    world.recover();
}

/// Nothing was written into the bare folder that a mount covers or should cover.
fn is_bare(path: &Path) -> bool {
    fs::read_dir(path).unwrap().count() == 0
}

#[test]
fn a_further_target_that_is_not_mounted_degrades_and_nothing_is_written_below_its_mount_point() {
    let nas_lines = "require_mount = true";
    let world = World::with(Setup { nas: true, nas_lines, base: Some(below_no_mount()), ..Setup::default() });
    let nas = world.path("nas");
    let mount = Mount::new(&nas, "size=20m");
    world.recover();
    drop(mount);
    assert!(is_bare(&nas));
    let out = world.backup();
    assert_eq!(out.code, 4, "{}", out.all());
    assert!(out.all().contains("is not mounted"), "{}", out.all());
    assert!(is_bare(&nas));
    assert_eq!(world.metric("backup_last_run_degraded"), 1.0);
    assert_eq!(world.mails_of("degraded"), 1);
    let run = out.run_id().unwrap();
    // Another share of that name, empty: the older copies are not there, the new one is made.
    let mount = Mount::new(&nas, "size=20m");
    world.run(&["tend", "--retry"]).expect(0);
    let copy = world.list().into_iter().find(|c| c["run_id"] == run.as_str() && c["target"] == "nas");
    assert_eq!(copy.unwrap()["status"], "verified");
    drop(mount);
    assert!(is_bare(&nas));
}

#[test]
fn shares_that_hang_keep_no_run_from_its_end_and_the_copy_is_made_when_they_are_back() {
    let (job, files) = ("copy_wait = \"1h\"", "one_file_system = true\nexclude = [\"/excluded\"]");
    let world = World::with(Setup { nas: true, job, files, ..Setup::default() });
    world.recover();
    world.edit_config(job, "copy_wait = \"2s\"");
    for below in ["src/excluded", "src/of-another-machine"] {
        fs::create_dir(world.path(below)).unwrap();
    }
    let shares = ["nas", "src/excluded", "src/of-another-machine"].map(|at| HungShare::new(&world.path(at)));
    let out = world.backup();
    assert_eq!(out.code, 4, "{}", out.all());
    let run = out.run_id().unwrap();
    let status = |target: &str| {
        let copies = world.list();
        let copy = copies.iter().find(|c| c["run_id"] == run.as_str() && c["target"] == target);
        copy.map(|copy| copy["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(status("local").as_deref(), Some("verified"));
    assert_ne!(status("nas").as_deref(), Some("verified"));
    assert!(world.run(&["check"]).code > 0);
    let listed = world.run(&["ls", &run, "--recursive"]).all();
    assert!(listed.contains("/of-another-machine/") && !listed.contains("/excluded"), "{listed}");
    drop(shares);
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(status("nas").as_deref(), Some("verified"));
}

#[test]
fn a_primary_target_that_is_not_mounted_fails_the_run() {
    let local = "require_mount = true";
    let world = World::with(Setup { local, base: Some(below_no_mount()), ..Setup::default() });
    let path = world.path("local");
    let out = world.backup().expect(1);
    assert!(out.all().contains("is not mounted"), "{}", out.all());
    assert!(is_bare(&path));
    assert_eq!(world.mails_of("failure"), 1);
    assert_eq!(world.metric("backup_target_up"), 0.0);
    let mount = Mount::new(&path, "size=20m");
    world.recover();
    assert_eq!(world.metric("backup_target_up"), 1.0);
    drop(mount);
    assert!(is_bare(&path));
}

#[test]
#[cfg(feature = "failpoints")]
fn a_share_that_is_unmounted_during_the_run_is_noticed_before_anything_is_published_below_it() {
    let local = "require_mount = true";
    let world = World::with(Setup { local, base: Some(below_no_mount()), ..Setup::default() });
    let path = world.path("local");
    // Below a shared mount, as systemd makes them, nothing can be moved.
    let root = world.root().to_str().unwrap();
    system("mount", &["--bind", "--make-private", root, root]);
    let _root = Mount::made(world.root());
    let mount = Mount::new(&path, "size=20m");
    world.recover();
    for place in ["capture", "local:write", "publish", "recorded-location"] {
        eprintln!("unmounted at {place}");
        // A share keeps its files: this one is moved out of the way, and back.
        let aside = world.path("aside");
        fs::create_dir_all(&aside).unwrap();
        let run = world.pause_at(place, &["backup", "web", "--json"]);
        move_mount(&path, &aside);
        let out = run.go_on();
        assert_eq!(out.code, 1, "{}", out.all());
        assert_eq!(out.json()["outcome"], "failure");
        assert!(is_bare(&path), "{place}: something was written below the mount point");
        move_mount(&aside, &path);
        world.check_backups();
        world.recover();
    }
    drop(mount);
}

#[test]
#[cfg(feature = "failpoints")]
fn a_share_that_is_unmounted_while_it_gets_a_copy_degrades_and_nothing_is_written_below_it() {
    let nas_lines = "require_mount = true";
    let world = World::with(Setup { nas: true, nas_lines, base: Some(below_no_mount()), ..Setup::default() });
    let root = world.root().to_str().unwrap();
    system("mount", &["--bind", "--make-private", root, root]);
    let _root = Mount::made(world.root());
    let (path, aside) = (world.path("nas"), world.path("aside"));
    fs::create_dir(&aside).unwrap();
    let mount = Mount::new(&path, "size=20m");
    world.recover();
    for place in ["nas:write", "nas:fsync-folder", "nas:open"] {
        eprintln!("unmounted at {place}");
        let run = world.pause_at(place, &["backup", "web", "--json"]);
        move_mount(&path, &aside);
        let out = run.go_on();
        assert_eq!(out.code, 4, "{}", out.all());
        assert_eq!(out.json()["outcome"], "success");
        assert!(is_bare(&path), "{place}: something was written below the mount point");
        move_mount(&aside, &path);
        world.check_backups();
        world.catch_up();
        world.recover();
    }
    drop(mount);
}

/// Moves a mount.
#[cfg(feature = "failpoints")]
fn move_mount(from: &Path, to: &Path) {
    system("mount", &["--move", from.to_str().unwrap(), to.to_str().unwrap()]);
}
