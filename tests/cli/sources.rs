//! Every kind of source in one job, as a configuration names it.

use std::fs;

use crate::world::{World, below};

const ALL: &str = r##"
timezone = "Europe/Berlin"
state_dir = "{}/state"
[target.local]
type = "directory"
path = "{}/local"
[job.web]
trigger = "external"
schedule = "@daily"
targets = ["local"]
[job.web.source.application]
type = "files"
paths = ["{}/data"]
exclude = ["*.log", "!/keep.log", "/storage/tmp/**"]
exclude_caches = true
exclude_if_present = [".nobackup"]
[job.web.source.queue]
type = "sqlite"
path = "{}/queue.sqlite"
[job.web.source.words]
type = "command"
command = ["sh", "-c", "echo $GREETING; cat \"$SECRET_FILE\" 2>/dev/null; echo $SECRET | tr a-z A-Z; echo '# end'"]
extension = "txt"
end_marker = "# end"
env = { GREETING = "hello" }
env_file = { SECRET = "{}/secret" }
[job.web.source.system-state]
type = "system"
paths = ["{}/etc"]
extra_paths = ["{}/opt"]
exclude = ["private/"]
"##;

#[test]
fn files_databases_programs_and_the_system_are_captured_as_configured() {
    let world = World::new(ALL);
    world.write("data/keep.log", "kept");
    world.write("data/other.log", "left out");
    world.write("data/storage/tmp/x/y", "left out");
    world.write("data/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    world.write("data/cache/z", "left out");
    world.write("data/scratch/.nobackup", "");
    world.write("data/scratch/z", "left out");
    world.write("etc/hosts", "127.0.0.1 localhost\n");
    world.write("etc/private/key", "left out");
    world.write("opt/site.conf", "site\n");
    world.write("secret", "s3cret\n");
    world.sh("chmod 600 secret");
    world.sh("sqlite3 queue.sqlite \"PRAGMA journal_mode = wal; CREATE TABLE jobs (id INTEGER, name TEXT); \
         INSERT INTO jobs VALUES (1, 'Grüße'), (2, 'two')\" >/dev/null");
    let made = world.agent("backup --json").exits(0).json();
    let names: Vec<&str> =
        made["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["queue", "words", "application", "system-state"], "what is in motion comes first");
    world.agent("restore latest --to r").exits(0);

    let files = world
        .sh(&format!("cd '{}'; find . -type f | sort", below("r/application", &world, "data").display()));
    let expected = "./app/Models/Grüße.php\n./app/Models/User.php\n./cache/CACHEDIR.TAG\n./index.php\n./keep.log\n\
                    ./scratch/.nobackup\n./storage/media/big.bin\n";
    assert_eq!(files, expected);
    assert_eq!(world.read("r/words/words.txt"), "hello\nS3CRET\n# end\n");
    let database = world.sh("find r/queue -type f").trim().to_owned();
    assert_eq!(world.sh(&format!("sqlite3 '{database}' 'SELECT * FROM jobs'")), "1|Grüße\n2|two\n");
    let system = below("r/system-state", &world, "");
    assert!(
        world.path(&system).join("etc/hosts").exists() && world.path(&system).join("opt/site.conf").exists()
    );
    assert!(!world.path(&system).join("etc/private").join("key").exists());
}

#[test]
fn a_stream_without_its_end_marker_or_with_a_secret_for_all_to_read_is_no_backup() {
    let world = World::new(ALL);
    world.write("etc/hosts", "x");
    world.write("opt/x", "x");
    world.write("secret", "s3cret\n");
    world.sh("chmod 600 secret; sqlite3 queue.sqlite 'CREATE TABLE t (x)'");
    let config = world.read("config.toml");
    world.write("config.toml", &config.replace("; echo '# end'", ""));
    let cut = world.agent("backup").exits(1);
    assert!(cut.out.contains("component words: ") && cut.out.contains("# end"), "{}", cut.out);
    assert!(!format!("{cut:?}").contains("S3CRET"), "{cut:?}");
    world.write("config.toml", &config);
    world.sh("chmod 644 secret");
    world.agent("backup").exits(1).says(&["component words: ", "/secret", "600"]);
    world.sh("chmod 600 secret");
    // A damaged database never becomes a backup.
    let mut bytes = fs::read(world.path("queue.sqlite")).unwrap();
    bytes[100..2000].fill(0xff);
    fs::write(world.path("queue.sqlite"), bytes).unwrap();
    world.agent("backup").exits(1).says(&["component queue: "]);
    assert_eq!(world.backups("local").len(), 0);
}
