//! Commands around runs and sources, with the real binary.
#![cfg(feature = "failpoints")]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use world::invariants::Expect;
use world::{Setup, World, wait_for};

/// Three hooks that write into a journal what they are told.
const JOURNAL: &str = r#"
[job.web.hook.a-run]
before = ["{root}/note"]
after = ["{root}/note"]
failure = ["{root}/note"]
[job.web.hook.b-capture]
around = "capture"
before = ["{root}/note", "with an argument", "$HOME"]
after = ["{root}/note"]
[job.web.hook.c-source]
source = "application"
before = ["{root}/note"]
after = ["{root}/note"]
env = { COLOUR = "green" }
timeout = "10m"
"#;

const NOTE: &str = r#"#!/bin/sh
echo "$BACKUP_AGENT_PHASE $BACKUP_AGENT_HOOK $BACKUP_AGENT_JOB source=$BACKUP_AGENT_SOURCE outcome=$BACKUP_AGENT_OUTCOME args=$* colour=$COLOUR" >>{root}/journal
[ -z "$BACKUP_AGENT_ERROR" ] || echo "error: $BACKUP_AGENT_ERROR" >>{root}/errors
echo "$BACKUP_AGENT_RUN_ID" >>{root}/ids
if [ -e "{root}/fail-$BACKUP_AGENT_PHASE-$BACKUP_AGENT_HOOK" ]; then echo "the disk is purple" >&2; exit 7; fi
echo "all is well in $BACKUP_AGENT_PHASE"
"#;

fn script(world: &World, name: &str, text: &str) {
    let path = world.path(name);
    fs::write(&path, text.replace("{root}", &world.root().display().to_string())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn world(more: &str) -> World {
    let world = World::with(Setup { more: more.to_owned(), ..Setup::default() });
    script(&world, "note", NOTE);
    world
}

/// The lines of the journal, cut to their first two words and the outcome; then the journal is emptied.
fn journal(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.path("journal")).unwrap_or_default();
    let _ = fs::remove_file(world.path("journal"));
    let short = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let outcome = words.iter().find_map(|word| word.strip_prefix("outcome=")).unwrap_or_default();
        format!("{} {} {outcome}", words[0], words[1]).trim_end().to_owned()
    };
    text.lines().map(short).collect()
}

fn touch(world: &World, name: &str) {
    fs::write(world.path(name), "").unwrap();
}

fn log(world: &World) -> String {
    let run = world.history()[0]["run_id"].as_str().unwrap().to_owned();
    world.run(&["show", &run, "--log"]).all()
}

const BEFORE: [&str; 3] = ["before a-run", "before b-capture", "before c-source"];

fn entries(before: &[&str], after: &[&str]) -> Vec<String> {
    before.iter().chain(after).map(|line| (*line).to_owned()).collect()
}

#[test]
fn hooks_nest_in_order_and_know_job_run_source_and_outcome() {
    let world = world(JOURNAL);
    let out = world.backup();
    world.after(&out, Expect::Success);
    let text = fs::read_to_string(world.path("journal")).unwrap();
    assert!(
        text.contains("before b-capture web source= outcome= args=with an argument $HOME colour=\n"),
        "{text}"
    );
    assert!(text.contains("before c-source web source=application outcome= args= colour=green\n"), "{text}");
    let after = ["after c-source success", "after b-capture success", "after a-run success"];
    assert_eq!(journal(&world), entries(&BEFORE, &after));
    let ids = fs::read_to_string(world.path("ids")).unwrap();
    assert!(ids.lines().all(|id| id == out.run_id().unwrap()), "{ids}");
    // What they print is in the log of the run.
    let log = log(&world);
    assert!(log.contains("hook a-run, before: all is well in before"), "{log}");
    assert!(log.contains("hook c-source, after: all is well in after"), "{log}");
}

#[test]
fn a_before_that_fails_fails_the_run_before_anything_is_read() {
    for (hook, begun) in [("a-run", 1), ("b-capture", 2), ("c-source", 3)] {
        let world = world(JOURNAL);
        world.recover();
        journal(&world);
        touch(&world, &format!("fail-before-{hook}"));
        let out = world.backup();
        world.after(&out, Expect::Failure);
        assert!(out.all().contains(&format!("hook {hook}, before: ")), "{}", out.all());
        assert!(out.all().contains("exit code 7: the disk is purple"), "{}", out.all());
        // What was begun is ended, the last begun first; and who wants to know of failures is told.
        let mut after: Vec<String> = ["a-run", "b-capture", "c-source"][..begun]
            .iter()
            .rev()
            .map(|name| format!("after {name} failure"))
            .collect();
        after.push("failure a-run failure".to_owned());
        let after: Vec<&str> = after.iter().map(String::as_str).collect();
        assert_eq!(journal(&world), entries(&BEFORE[..begun], &after), "{hook}");
        let errors = fs::read_to_string(world.path("errors")).unwrap();
        assert!(errors.contains("the disk is purple"), "{errors}");
        assert!(world.leftovers().is_empty());
        fs::remove_file(world.path(&format!("fail-before-{hook}"))).unwrap();
        world.recover();
    }
}

#[test]
fn an_after_that_fails_degrades_a_good_run_and_is_told_with_a_bad_one() {
    let world = world(JOURNAL);
    for hook in ["a-run", "b-capture", "c-source"] {
        touch(&world, &format!("fail-after-{hook}"));
    }
    let out = world.backup();
    world.after(&out, Expect::Degraded);
    for hook in ["a-run", "b-capture", "c-source"] {
        let text = format!("hook {hook}, after: ");
        assert!(out.json()["degraded"].to_string().contains(&text), "{}", out.all());
        assert!(!out.json()["notes"].to_string().contains(&text), "told twice: {}", out.all());
    }
    assert_eq!(journal(&world).len(), 6, "one that fails keeps no other from running");
    fs::rename(world.path("src"), world.path("away")).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(
        out.all().contains("hook a-run, after: ") && out.all().contains("cannot be backed up"),
        "{}",
        out.all()
    );
    fs::rename(world.path("away"), world.path("src")).unwrap();
}

#[test]
fn a_failing_capture_and_an_interruption_still_run_what_comes_after() {
    let world = world(JOURNAL);
    world.recover();
    journal(&world);
    fs::rename(world.path("src"), world.path("away")).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Failure);
    let failed =
        ["after c-source failure", "after b-capture failure", "after a-run failure", "failure a-run failure"];
    assert_eq!(journal(&world), entries(&BEFORE, &failed));
    fs::rename(world.path("away"), world.path("src")).unwrap();

    let paused = world.pause_at("capture-done", &["backup", "web", "--json"]);
    paused.ask_to_stop("TERM");
    let out = paused.go_on();
    assert_eq!(out.code, 130, "{}", out.all());
    let ended = journal(&world);
    assert_eq!(ended[..3], entries(&BEFORE, &[]), "{ended:?}");
    assert!(ended.contains(&"after a-run interrupted".to_owned()), "{ended:?}");
    assert!(ended.iter().any(|line| line.starts_with("after b-capture")), "{ended:?}");
    assert_eq!(ended.last().unwrap(), "failure a-run interrupted");
    world.recover();
}

#[test]
fn what_a_killed_run_left_open_is_ended_by_whoever_finds_it() {
    let world = world(JOURNAL);
    world.recover();
    journal(&world);
    let paused = world.pause_at("capture-done", &["backup", "web", "--json"]);
    paused.signal("KILL");
    paused.wait();
    assert_eq!(journal(&world), entries(&BEFORE, &["after c-source success"]));
    world.run(&["tend"]).expect(0);
    let mut made_up = journal(&world);
    assert_eq!(made_up.pop().unwrap(), "failure a-run interrupted");
    made_up.sort();
    let expected = ["after a-run interrupted", "after b-capture interrupted", "after c-source interrupted"];
    assert_eq!(made_up, expected);
    // Once.
    world.run(&["tend"]).expect(0);
    assert_eq!(journal(&world), Vec::<String>::new());
    world.recover();
}

#[test]
fn a_hook_that_hangs_is_ended_at_its_time_limit_with_its_children() {
    let world = world(
        "[job.web.hook.slow]\nbefore = [\"{root}/hang\"]\nafter = [\"{root}/note\"]\ntimeout = \"6s\"\n",
    );
    script(&world, "hang", "#!/bin/sh\nsleep 600 & echo $! >{root}/pid\necho waiting for the moon\nwait\n");
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert!(
        out.all().contains("hook slow, before") && out.all().contains("not finished after 6s"),
        "{}",
        out.all()
    );
    assert!(log(&world).contains("waiting for the moon"), "{}", log(&world));
    let pid = fs::read_to_string(world.path("pid")).unwrap();
    wait_for("the end of the child", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    assert_eq!(journal(&world), ["after slow failure"]);
}

#[test]
fn secrets_of_hooks_are_in_no_log_and_no_message() {
    let world =
        world("[job.web.hook.api]\nbefore = [\"{root}/talk\"]\nenv_file = { TOKEN = \"{root}/token\" }\n");
    fs::write(world.path("token"), "canary-hook-token\n").unwrap();
    fs::set_permissions(world.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
    script(
        &world,
        "talk",
        "#!/bin/sh\necho \"out $TOKEN\"\necho \"err $TOKEN\" >&2\n[ -e {root}/src/version.txt ]\n",
    );
    let out = world.backup();
    world.after(&out, Expect::Success);
    let log = log(&world);
    assert!(log.contains("out [secret]") && log.contains("err [secret]"), "{log}");
    script(&world, "talk", "#!/bin/sh\necho \"err $TOKEN\" >&2\nexit 1\n");
    let out = world.backup();
    world.after(&out, Expect::Failure);
    let all = [out.all(), world.run(&["show", "latest", "--log"]).all(), world.mails().join("")].join("");
    assert!(all.contains("[secret]") && !all.contains("canary"), "{all}");
}

#[test]
fn what_a_hook_makes_is_there_when_its_source_is_looked_at() {
    for around in ["", "around = \"capture\"", "source = \"application\""] {
        let world = world(&format!(
            "[job.web.hook.mount]\n{around}\nbefore = [\"mv\", \"{{root}}/away\", \"{{root}}/src\"]\nafter = [\"mv\", \"{{root}}/src\", \"{{root}}/away\"]\n"
        ));
        fs::rename(world.path("src"), world.path("away")).unwrap();
        world.backup().expect(0);
        assert!(world.path("away").exists() && !world.path("src").exists());
    }
}

#[test]
fn a_hook_knows_who_it_is_also_where_the_agent_was_started_without_an_environment() {
    let world = world("[job.web.hook.env]\nbefore = [\"{root}/show\"]\n");
    script(&world, "show", "#!/bin/sh\nenv >{root}/env\n");
    let mut agent = world.agent(&["backup"]);
    agent.env_clear().env("TZ", "UTC");
    let out = world::output(agent);
    assert_eq!(out.code, 0, "{}", out.all());
    let seen = fs::read_to_string(world.path("env")).unwrap();
    let user = world::system("id", &["-un"]);
    let home = world::system("sh", &["-c", "getent passwd $(id -u) | cut -d: -f6"]);
    for line in [
        format!("USER={}", user.trim()),
        format!("LOGNAME={}", user.trim()),
        format!("HOME={}", home.trim()),
        "LC_ALL=C.UTF-8".to_owned(),
        "TZ=UTC".to_owned(),
    ] {
        assert!(seen.lines().any(|other| other == line), "{line}: {seen}");
    }
    // Those, and what docs/hooks.md names, are all.
    let docs = include_str!("../docs/hooks.md");
    for line in seen.lines() {
        let name = line.split('=').next().unwrap();
        let of_shell = ["PWD", "SHLVL", "_", "OLDPWD"].contains(&name);
        assert!(of_shell || docs.contains(&format!("`{name}`")), "docs/hooks.md does not name {name}");
    }
}
