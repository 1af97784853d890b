//! The engine against GNU tar and zstd: what they extract is what was there, byte for byte.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backup_agent::archive::{
    Captured, Codec, Group, IndexReader, Options, Outputs, Prefetch, ReadAt, RestoreOptions, RestoreSummary,
    Selection, StreamDecoder, Tallied, TreeSpec, VirtualFile, capture_stream, capture_tree, check_tar,
    for_each_group, restore_frames, restore_stream, select,
};
use backup_agent::event::Progress;
use backup_agent::manifest;
use backup_agent::model::WarningKind;

fn options(codec: Codec, threads: usize) -> Options {
    Options {
        codec,
        threads,
        nice: 0,
        idle_io: false,
        read_limit: None,
        seal: None,
        progress: Arc::new(Progress::default()),
    }
}

fn capture(spec: &TreeSpec, out: &Path, options: &Options) -> Captured {
    let mut archive = File::create(out.join("a.tar.zst")).unwrap();
    let mut index = File::create(out.join("a.index.zst")).unwrap();
    let list = out.join("a.warnings.zst");
    let outputs = Outputs {
        archive: &mut archive,
        index: &mut index,
        warnings: &mut move || Ok(Box::new(File::create(&list)?) as Box<dyn Write + Send>),
    };
    capture_tree(spec, options, 1_700_000_000, outputs).unwrap()
}

fn spec(root: &Path) -> TreeSpec {
    TreeSpec { roots: vec![root.to_owned()], ..TreeSpec::default() }
}

fn sh(command: &str) -> String {
    let output = Command::new("bash").args(["-ec", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    (0..length)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .collect()
}

/// One of everything that GNU tar keeps.
fn make_tree(root: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    fs::create_dir_all(root.join("empty/folder")).unwrap();
    write("zero", b"");
    write("a/b/text.txt", b"hello\n");
    write("a-b", b"sorts between a and a/b by bytes");
    write("big.bin", &noise(5_000_000, 7));
    write("exactly-one-slice", &noise(1 << 20, 9));
    write("block.bin", &noise(512, 3));
    for i in 0..800 {
        write(
            &format!("many/d{:02}/f{i:04}.php", i / 40),
            format!("<?php // {i}\n").repeat(i % 90).as_bytes(),
        );
    }
    let long = format!("{}/{}/{}", "l".repeat(120), "o".repeat(200), "n".repeat(250));
    write(&long, b"long name");
    fs::create_dir_all(root.join("bytes")).unwrap();
    let odd = root.join("bytes").join(std::ffi::OsStr::from_bytes(b"caf\xe9 \xff\n\t'\"\\"));
    fs::write(&odd, b"not utf-8").unwrap();
    let odd_long: Vec<u8> = std::iter::repeat_n(b"\xe9\xe8", 70).flatten().copied().collect();
    fs::write(root.join("bytes").join(std::ffi::OsStr::from_bytes(&odd_long)), b"long, not utf-8").unwrap();
    fs::hard_link(root.join("a/b/text.txt"), root.join("hard link")).unwrap();
    fs::hard_link(root.join("big.bin"), root.join("big-again.bin")).unwrap();
    symlink("a/b/text.txt", root.join("symlink")).unwrap();
    symlink("/nowhere/".to_owned() + &"x".repeat(300), root.join("dangling-long")).unwrap();
    fs::set_permissions(root.join("zero"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("empty/folder"), fs::Permissions::from_mode(0o2711)).unwrap();
    let sparse = File::create(root.join("sparse.img")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 20 << 20).unwrap();
    let sparse = File::create(root.join("small-sparse")).unwrap();
    sparse.set_len(700_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 600_000).unwrap();
    File::create(root.join("all-hole")).unwrap().set_len(3 << 20).unwrap();
    let old = filetime::FileTime::from_unix_time(-86_400 * 365, 250_000_000);
    filetime::set_file_mtime(root.join("block.bin"), old).unwrap();
    filetime::set_file_mtime(root.join("a"), filetime::FileTime::from_unix_time(1_600_000_000, 123_456_789))
        .unwrap();
}

/// Everything that can be compared about a tree, a line an entry.
fn describe(root: &Path) -> String {
    sh(&format!(
        "cd {0:?} && find . -printf '%P\\t%y\\t%m\\t%U:%G\\t%T@\\t%s\\t%n\\t%l\\0' | sort -z | tr '\\0\\n' '\\n?' | \
         grep -v $'^\\td\\t'",
        root
    ))
    .lines()
    // A folder's size is the file system's business.
    .map(|line| {
        let mut fields: Vec<&str> = line.split('\t').collect();
        if fields.get(1) == Some(&"d") {
            fields[5] = "-";
            fields[6] = "-";
        }
        fields.join("\t")
    })
    .collect::<Vec<_>>()
    .join("\n")
}

fn strip(root: &Path) -> PathBuf {
    root.strip_prefix("/").unwrap().to_owned()
}

fn assert_same(original: &Path, restored: &Path) {
    sh(&format!("diff -r --no-dereference {original:?} {restored:?}"));
    assert_eq!(describe(original), describe(restored));
}

fn blocks(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks()
}

#[test]
fn gnu_tar_restores_everything_it_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out, back) = (dir.path().join("tree"), dir.path().join("out"), dir.path().join("back"));
    [&tree, &out, &back].iter().for_each(|d| fs::create_dir(d).unwrap());
    make_tree(&tree);
    let captured = capture(&spec(&tree), &out, &options(Codec::Zstd(3), 2));
    assert_eq!(captured.warning_counts.total(), 0, "{:?}", captured.warnings);

    sh(&format!("tar --zstd -xpf {}/a.tar.zst -C {}", out.display(), back.display()));
    let restored = back.join(strip(&tree));
    assert_same(&tree, &restored);
    assert!(blocks(&restored.join("sparse.img")) * 512 < 1 << 20, "holes were filled");
    assert!(blocks(&restored.join("small-sparse")) * 512 < 100_000, "holes were filled");
    let (a, b) = (restored.join("big.bin"), restored.join("big-again.bin"));
    assert_eq!(fs::metadata(a).unwrap().ino(), fs::metadata(b).unwrap().ino());

    // The counts and digests are true.
    assert_eq!(sh(&format!("sha256sum < {}/a.tar.zst", out.display()))[..64], captured.sha256.to_string());
    assert_eq!(fs::metadata(out.join("a.tar.zst")).unwrap().len(), captured.stored_bytes);
    let listed = sh(&format!("tar --zstd -tf {}/a.tar.zst | wc -l", out.display()));
    assert_eq!(listed.trim(), captured.entries.to_string());
    let raw = sh(&format!("zstd -dc {}/a.tar.zst | wc -c", out.display()));
    assert_eq!(raw.trim(), captured.raw_bytes.to_string());
}

#[test]
fn our_own_restore_brings_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    [&tree, &out].iter().for_each(|d| fs::create_dir(d).unwrap());
    make_tree(&tree);
    for (name, codec, stored) in
        [("zstd", Codec::Zstd(3), manifest::Codec::Zstd), ("gzip", Codec::Gzip(6), manifest::Codec::Gzip)]
    {
        let captured = capture(&spec(&tree), &out, &options(codec, 2));
        let back = dir.path().join(name);
        fs::create_dir(&back).unwrap();
        let archive = Tallied::new(File::open(out.join("a.tar.zst")).unwrap());
        let totals = archive.totals();
        let mut decoder = StreamDecoder::new(archive, stored);
        let summary =
            Prefetch::scope(&mut decoder, |stream| restore_stream(stream, &back, &restore_options()))
                .unwrap();
        assert!(summary.problems.is_empty() && summary.notes.is_empty(), "{summary:?}");
        assert_eq!(summary.entries, captured.entries);
        assert_eq!(totals.stored_bytes(), captured.stored_bytes);
        assert_eq!(totals.sha256(), captured.sha256);
        assert_same(&tree, &back.join(strip(&tree)));
        assert!(blocks(&back.join(strip(&tree)).join("sparse.img")) * 512 < 1 << 20);

        let back = dir.path().join(format!("{name}-by-frames"));
        fs::create_dir(&back).unwrap();
        let archive = File::open(out.join("a.tar.zst")).unwrap();
        let index = open_index(&out.join("a.index.zst"));
        let mut groups = |visit: &mut dyn FnMut(Group) -> _| {
            for_each_group(&index, &mut |mut group, entries| {
                group.names = entries.into_iter().map(|e| e.path.0).collect();
                visit(group)
            })
        };
        let summary = by_frames(&archive, stored, &back, None, &mut groups);
        assert!(summary.problems.is_empty() && summary.notes.is_empty(), "{summary:?}");
        assert_eq!(summary.entries, captured.entries);
        assert_same(&tree, &back.join(strip(&tree)));

        let mut decoder = StreamDecoder::new(File::open(out.join("a.tar.zst")).unwrap(), stored);
        let check = check_tar(&mut decoder).unwrap();
        assert_eq!((check.entries, check.raw_bytes), (captured.entries, captured.raw_bytes));
    }
}

type ReadIndex = Box<dyn Fn(u64, usize) -> anyhow::Result<Vec<u8>>>;

fn open_index(path: &Path) -> IndexReader<ReadIndex> {
    let file = File::open(path).unwrap();
    let length = ReadAt::length(&file).unwrap();
    let read: ReadIndex = Box::new(move |offset, length| Ok(ReadAt::read_exact_at(&file, offset, length)?));
    IndexReader::open(length, read).unwrap()
}

/// Restores groups of frames, by several threads.
fn by_frames(
    archive: &File,
    codec: manifest::Codec,
    back: &Path,
    selection: Option<&Selection>,
    groups: &mut backup_agent::archive::Groups<'_>,
) -> RestoreSummary {
    let mut read = |frame: &backup_agent::archive::FrameRecord| {
        ReadAt::read_exact_at(archive, frame.offset, frame.stored as usize)
    };
    restore_frames(back, codec, selection, &restore_options(), groups, &mut read).unwrap()
}

fn restore_options() -> RestoreOptions {
    RestoreOptions {
        overwrite: false,
        allow_setid: true,
        devices: false,
        keep_going: false,
        sync: false,
        threads: 3,
        owners: rustix::process::geteuid().is_root(),
        numeric_owner: false,
        progress: Arc::new(Progress::default()),
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let digests: Vec<_> = [1, 2, 7]
        .into_iter()
        .map(|threads| capture(&spec(&tree), dir.path(), &options(Codec::Zstd(3), threads)))
        .map(|c| (c.sha256, c.index, c.frames))
        .collect();
    assert!(digests.windows(2).all(|w| w[0] == w[1]), "{digests:?}");
}

#[test]
fn one_file_comes_back_through_its_own_frames_only() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    [&tree, &out].iter().for_each(|d| fs::create_dir(d).unwrap());
    make_tree(&tree);
    let captured = capture(&spec(&tree), &out, &options(Codec::Zstd(3), 2));
    let index = open_index(&out.join("a.index.zst"));
    let archive = File::open(out.join("a.tar.zst")).unwrap();
    let prefix = strip(&tree);
    for (name, most_frames) in
        [("many/d03/f0125.php", 1), ("big-again.bin", 6), ("hard link", 2), ("big.bin", 6)]
    {
        let wanted = prefix.join(name);
        let selection = select(&index, &[wanted.as_os_str().as_bytes().to_vec()], &|path| {
            path == wanted.as_os_str().as_bytes()
        })
        .unwrap();
        let frames = selection.frames().count();
        assert!(frames <= most_frames, "{name}: {frames} frames");
        assert!((frames as u64) < captured.frames);
        let back = tempfile::tempdir().unwrap();
        let mut groups =
            |visit: &mut dyn FnMut(Group) -> _| selection.groups.iter().cloned().try_for_each(visit);
        let summary = by_frames(&archive, manifest::Codec::Zstd, back.path(), Some(&selection), &mut groups);
        assert!(summary.problems.is_empty(), "{summary:?}");
        assert_eq!(
            fs::read(back.path().join(&wanted)).unwrap(),
            fs::read(tree.join(name)).unwrap(),
            "{name}"
        );
        let files = sh(&format!("find {} ! -type d | wc -l", back.path().display()));
        assert_eq!(files.trim(), "1", "{name}: more than the file came back");
    }
}

#[test]
fn extended_attributes_and_acls_survive_gnu_tar_and_our_restore() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    [&tree, &out].iter().for_each(|d| fs::create_dir(d).unwrap());
    fs::write(tree.join("file"), b"x").unwrap();
    fs::write(tree.join("big"), noise(2_000_000, 5)).unwrap();
    // It names something outside that has no such attribute, and must not get it.
    std::os::unix::fs::symlink("/var/tmp", tree.join("link")).unwrap();
    let t = tree.display();
    sh(&format!(
        "setfattr -n user.comment -v 'ünï=code' {t}/file; setfattr -n user.big -v 0xdeadbeef {t}/big; \
         setfacl -m u:1234:rx,g:27:w {t}/file; setfacl -m d:u:1234:rwx {t}; \
         if [ $(id -u) = 0 ]; then setfattr -n trusted.overlay -v y {t}/file; setfattr -h -n trusted.link -v z {t}/link; \
         setfattr -n security.capability -v 0x0100000280000000000000000000000000000000 {t}/big; fi"
    ));
    capture(&spec(&tree), &out, &options(Codec::Zstd(3), 2));
    let attributes = |root: &Path| {
        sh(&format!("cd {} && getfattr -R -P -h -d -m - -e hex . && getfacl -R -n -p .", root.display()))
    };
    let (gnu, ours) = (dir.path().join("gnu"), dir.path().join("ours"));
    [&gnu, &ours].iter().for_each(|d| fs::create_dir(d).unwrap());
    sh(&format!(
        "tar --acls --xattrs --xattrs-include='*' --zstd -xpf {}/a.tar.zst -C {}",
        out.display(),
        gnu.display()
    ));
    let mut decoder = StreamDecoder::new(File::open(out.join("a.tar.zst")).unwrap(), manifest::Codec::Zstd);
    let summary = restore_stream(&mut decoder, &ours, &restore_options()).unwrap();
    assert!(summary.notes.is_empty() && summary.problems.is_empty(), "{summary:?}");
    let before = attributes(&tree);
    assert!(before.contains("user.comment") && before.contains("user:1234:r-x"), "{before}");
    assert_eq!(before, attributes(&gnu.join(strip(&tree))));
    assert_eq!(before, attributes(&ours.join(strip(&tree))));

    // Capabilities are as powerful as set-uid bits, and come back on request only.
    let careful = RestoreOptions { allow_setid: false, ..restore_options() };
    let without = dir.path().join("without");
    fs::create_dir(&without).unwrap();
    let mut decoder = StreamDecoder::new(File::open(out.join("a.tar.zst")).unwrap(), manifest::Codec::Zstd);
    let summary = restore_stream(&mut decoder, &without, &careful).unwrap();
    assert_eq!(summary.setid_dropped, u64::from(careful.owners), "{summary:?}");
    let found = attributes(&without.join(strip(&tree)));
    assert!(!found.contains("security.capability") && found.contains("user.big"), "{found}");
    assert_eq!(before.contains("security.capability"), careful.owners, "{before}");
}

#[test]
fn a_file_above_8_gib_keeps_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let huge = File::create(tree.join("huge")).unwrap();
    huge.set_len(9 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&huge, b"near the end", (9 << 30) - 100).unwrap();
    let captured = capture(&spec(&tree), dir.path(), &options(Codec::Zstd(1), 2));
    assert!(captured.stored_bytes < 1 << 20);
    let back = dir.path().join("back");
    fs::create_dir(&back).unwrap();
    sh(&format!("tar --zstd -xpf {}/a.tar.zst -C {}", dir.path().display(), back.display()));
    let restored = File::open(back.join(strip(&tree)).join("huge")).unwrap();
    assert_eq!(restored.metadata().unwrap().len(), 9 << 30);
    let end = ReadAt::read_exact_at(&restored, (9 << 30) - 100, 12).unwrap();
    assert_eq!(end, b"near the end");
}

#[test]
fn excludes_tags_and_skipped_folders_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for path in [
        "keep/a",
        "node_modules/x",
        "sub/node_modules/y",
        "storage/framework/cache/data/z",
        "storage/framework/keep",
        "cache/CACHEDIR.TAG",
        "cache/content",
        "nob/.nobackup",
        "nob/content",
        "own/backup",
        "debug.log",
        "keep/debug.log",
    ] {
        fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs::write(tree.join(path), b"x").unwrap();
    }
    fs::write(tree.join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
    let spec = TreeSpec {
        roots: vec![tree.clone()],
        exclude: ["/node_modules/", "storage/framework/cache/**", "*.log", "!/keep/debug.log"]
            .map(String::from)
            .to_vec(),
        exclude_caches: true,
        exclude_if_present: vec![".nobackup".into()],
        skip: vec![tree.join("own")],
        virtual_files: vec![VirtualFile {
            path: "system-state/uname.txt".into(),
            bytes: b"Linux\n".to_vec(),
            mode: 0o644,
        }],
        ..TreeSpec::default()
    };
    capture(&spec, dir.path(), &options(Codec::Zstd(3), 2));
    let listed = sh(&format!("tar --zstd -tf {}/a.tar.zst | grep -v '/$'", dir.path().display()));
    let prefix = format!("{}/", strip(&tree).display());
    let mut files: Vec<&str> = listed.lines().map(|l| l.strip_prefix(&prefix).unwrap_or(l)).collect();
    files.sort_unstable();
    assert_eq!(
        files,
        [
            "cache/CACHEDIR.TAG",
            "keep/a",
            "keep/debug.log",
            "nob/.nobackup",
            "storage/framework/keep",
            "sub/node_modules/y",
            "system-state/uname.txt"
        ]
    );
}

#[test]
fn special_files_are_listed_as_skipped_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    sh(&format!("mkfifo {}/fifo", tree.display()));
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let captured = capture(&spec(&tree), dir.path(), &options(Codec::Zstd(3), 2));
    assert_eq!((captured.warning_counts.skipped, captured.warning_counts.total()), (2, 0));
    assert_eq!(captured.warnings.iter().filter(|w| w.kind == WarningKind::Skipped).count(), 2);
}

#[test]
fn a_root_that_is_a_link_is_followed_once_and_a_missing_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("releases/42")).unwrap();
    fs::write(dir.path().join("releases/42/index.php"), b"x").unwrap();
    symlink("releases/42", dir.path().join("current")).unwrap();
    capture(&spec(&dir.path().join("current")), dir.path(), &options(Codec::Zstd(3), 2));
    let listed = sh(&format!("tar --zstd -tf {}/a.tar.zst", dir.path().display()));
    assert!(listed.contains("current\n") && listed.contains("releases/42/index.php\n"), "{listed}");

    let spec = spec(&dir.path().join("gone"));
    let mut sinks = (Vec::new(), Vec::new());
    let outputs = Outputs {
        archive: &mut sinks.0,
        index: &mut sinks.1,
        warnings: &mut || Ok(Box::new(Vec::<u8>::new()) as Box<dyn Write + Send>),
    };
    let error = capture_tree(&spec, &options(Codec::Zstd(3), 1), 0, outputs).unwrap_err();
    assert!(format!("{error:#}").contains("gone"), "{error:#}");
}

#[test]
fn an_archive_of_a_tree_in_motion_is_valid_and_says_what_moved() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for i in 0..300 {
        fs::write(tree.join(format!("f{i:03}")), noise(20_000, i + 1)).unwrap();
    }
    fs::write(tree.join("grows.log"), noise(6 << 20, 3)).unwrap();
    fs::write(tree.join("shrinks.log"), noise(6 << 20, 4)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (tree, stop) = (tree.clone(), Arc::clone(&stop));
        move || {
            let mut log = fs::OpenOptions::new().append(true).open(tree.join("grows.log")).unwrap();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                log.write_all(b"one more line\n").unwrap();
                let shrinking = fs::OpenOptions::new().write(true).open(tree.join("shrinks.log")).unwrap();
                shrinking.set_len((6 << 20) - (round % 600) * 10_000).unwrap();
                let name = tree.join(format!("f{:03}", round % 300));
                if round % 2 == 0 {
                    drop(fs::remove_file(name))
                } else {
                    fs::write(name, b"new").unwrap()
                }
                round += 1;
            }
        }
    });
    let (mut seen, mut rounds) = (0, 0);
    // On a busy machine the writer may get no turn for a while.
    while rounds < 10 || seen == 0 && rounds < 200 {
        rounds += 1;
        let captured = capture(&spec(&tree), dir.path(), &options(Codec::Zstd(3), 2));
        let listed = sh(&format!("tar --zstd -tf {}/a.tar.zst | wc -l", dir.path().display()));
        assert_eq!(listed.trim(), captured.entries.to_string());
        assert_eq!(captured.warning_counts.unreadable, 0, "{:?}", captured.warnings);
        seen += captured.warning_counts.changed + captured.warning_counts.vanished;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(seen > 0, "the writer never got in the way: the test proved nothing");
}

#[test]
fn a_stream_survives_and_an_empty_one_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    for length in [0, 1, 1 << 20, 3_500_000] {
        let bytes = noise(length, 11);
        let path = dir.path().join("dump.sql.zst");
        let mut out = File::create(&path).unwrap();
        let captured = capture_stream(&mut &bytes[..], &options(Codec::Zstd(3), 2), &mut out).unwrap();
        assert_eq!(
            (captured.raw_bytes, captured.frames),
            (length as u64, length.div_ceil(1 << 20).max(1) as u64)
        );
        let mut back = Vec::new();
        StreamDecoder::new(File::open(&path).unwrap(), manifest::Codec::Zstd).read_to_end(&mut back).unwrap();
        assert!(back == bytes, "{length} bytes did not survive");
        assert_eq!(sh(&format!("zstd -dc {} | wc -c", path.display())).trim(), length.to_string());
    }
}

#[test]
fn a_full_disk_ends_the_capture_with_its_own_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bytes = noise(40 << 20, 1);
    let error = capture_stream(&mut &bytes[..], &options(Codec::Zstd(3), 2), &mut Full(5 << 20)).unwrap_err();
    let io = error.downcast_ref::<std::io::Error>().expect("the writer's own error");
    assert_eq!(io.kind(), std::io::ErrorKind::StorageFull);
}
