//! What stays and what goes: retention, `prune`, and `pause`, `resume`, `ack`.

use crate::world::{SIMPLE, World};

fn kept(last: u32) -> String {
    SIMPLE.replace("path = \"{}/local\"", &format!("path = \"{{}}/local\"\nkeep = {{ last = {last} }}"))
}

#[test]
fn each_good_run_removes_what_the_policy_lets_expire() {
    let world = World::new(&kept(2));
    for expected in [1, 2, 2, 2] {
        world.agent("backup").exits(0);
        assert_eq!(world.backups("local").len(), expected);
    }
    let list = world.agent("list --json").json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let all = world.agent("list --all --json").json();
    let states: Vec<&str> = all.as_array().unwrap().iter().map(|c| c["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["verified", "verified", "expired", "expired"]);
    // An expired backup is no backup any more, and says so.
    let gone = all[3]["run_id"].as_str().unwrap();
    world
        .agent(&format!("restore {gone} --to r"))
        .exits(1)
        .says(&["has no backup any more: it ended with success"]);
    world.agent(&format!("verify {gone}")).exits(1).says(&["has no backup"]);
}

#[test]
fn prune_says_what_it_would_do_and_why_and_then_does_it() {
    let world = World::new(SIMPLE);
    for _ in 0..4 {
        world.agent("backup").exits(0);
    }
    world
        .agent("prune --dry-run")
        .exits(0)
        .says(&["no rule for deleting, so everything is kept", "0 backups would be removed"]);
    world.configure(&kept(1));
    let plan = world.agent("prune --dry-run").exits(0);
    assert_eq!(plan.out.matches("  goes ").count(), 3, "{}", plan.out);
    assert_eq!(plan.out.matches("  stays ").count(), 1, "{}", plan.out);
    assert!(
        plan.out.contains("web at local\nRUN ") && plan.out.contains("3 backups would be removed, "),
        "{}",
        plan.out
    );
    assert_eq!(world.backups("local").len(), 4, "a dry run removed something");
    let answer = world.agent("prune --dry-run --json").exits(0).json();
    for key in ["job", "target", "run_id", "keep", "bytes", "reasons"] {
        assert!(answer[0].get(key).is_some(), "{key}: {answer}");
    }
    world.agent("prune").exits(0).says(&["3 backups removed"]);
    assert_eq!(world.backups("local").len(), 1);
    world.agent("prune").exits(0).says(&["0 backups removed"]);
    world.agent("verify").exits(0);
    world.agent("prune nope").exits(2).says(&["there is no job nope in the configuration; it has: web"]);
}

#[test]
fn a_paused_job_is_seen_as_such_until_it_goes_on() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    world.agent("pause web --until 2h").exits(0).says(&["job web rests until "]);
    world.agent("status").exits(0).says(&["paused", "rests until "]);
    assert!(
        world.agent("metrics").out.contains("backup_paused_until_timestamp_seconds{backup_job=\"web\"} ")
    );
    world.agent("check").exits(0).says(&["paused until "]);
    // A person may still start it.
    world.agent("backup").exits(0);
    world.agent("resume web").exits(0).says(&["job web goes on by its schedule"]);
    let status = world.agent("status").exits(0);
    assert!(!status.out.contains("paused"), "{}", status.out);
    for (when, problem) in [("yesterday", "is no time: say 2h, 3days"), ("2001-01-01", "has passed already")]
    {
        world.agent(&format!("pause web --until {when}")).exits(2).says(&[problem]);
    }
    world.agent("pause web").exits(2).says(&["--until <WHEN>"]);
    world.agent("pause nope --until 2h").exits(2).says(&["there is no job nope"]);
}

#[test]
fn a_source_that_shrank_is_told_until_somebody_accepts_it() {
    let world = World::new(SIMPLE);
    for _ in 0..3 {
        world.agent("backup").exits(0);
    }
    world.sh("rm data/storage/media/big.bin");
    let shrunk = world.agent("backup").exits(0);
    assert!(shrunk.out.contains("note: application: it shrank to "), "{}", shrunk.out);
    assert!(shrunk.out.contains("config.toml ack web`"), "{}", shrunk.out);
    let check = world.agent("check").exits(1);
    assert!(check.out.starts_with("BACKUP WARNING - web: "), "{}", check.out);
    world.agent("ack web").exits(0).says(&["sizes are measured anew"]);
    world.agent("check").exits(0);
    let again = world.agent("backup").exits(0);
    assert!(!again.out.contains("shrank"), "{}", again.out);
    // Where it must not happen at all, nothing is published.
    world.write(
        "config.toml",
        &format!("{}[job.web.health]\non_shrink = \"fail\"\n", world.read("config.toml")),
    );
    world.agent("backup").exits(0);
    let before = world.backups("local").len();
    world.sh("rm -r data/app");
    world.agent("backup").exits(1).says(&["it shrank to ", "max_shrink allows 50 %"]);
    assert_eq!(world.backups("local").len(), before);
}
