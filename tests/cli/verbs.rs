//! Verbs that only look, and what the program says about itself.

use serde_json::Value;

use crate::world::{SIMPLE, World};

/// Three jobs: one good, one that fails, one that has something unreadable.
fn three() -> World {
    let world = World::new(&format!(
        "{}{}",
        SIMPLE.replace("path = \"{}/local\"", "path = \"{}/local\"\ntemplate = \"{job}/%Y/%m/%d/%H%M\""),
        r#"
[job.broken]
schedule = "@daily"
trigger = "external"
targets = ["local"]
[job.broken.source.application]
type = "files"
paths = ["{}/nothing"]
[job.hand]
targets = ["local"]
[job.hand.source.numbers]
type = "command"
command = ["seq", "1", "3"]
"#
    ));
    world.agent("backup --all").exits(1);
    world
}

#[test]
fn all_jobs_run_and_the_worst_result_is_the_answer() {
    let world = three();
    let all = world.agent("backup --all --json").exits(1).json();
    let ends: Vec<(&str, i64)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["job"].as_str().unwrap(), a["exit_code"].as_i64().unwrap()))
        .collect();
    assert_eq!(ends, [("broken", 1), ("hand", 0), ("web", 0)]);
    // Named jobs only, in the order asked for.
    let two = world.agent("backup web hand --json").exits(0).json();
    assert_eq!((&two[0]["job"], &two[1]["job"]), (&Value::from("web"), &Value::from("hand")));
    world.agent("backup").exits(2).says(&["which job? Name one, or say --all: broken, hand, web"]);
    world
        .agent("backup nope")
        .exits(2)
        .says(&["there is no job nope in the configuration; it has: broken, hand, web"]);
    world.agent("backup web --all").exits(2);
    world.agent("show latest").exits(2).says(&["`latest` of which job? Say --job: hand, web"]);
    world.agent("show latest --job hand").exits(0).says(&["job      hand\n"]);
    world.agent("show latest --job broken").exits(1).says(&["there is no good backup yet"]);
}

#[test]
fn history_and_status_tell_of_every_job_and_run() {
    let world = three();
    let history = world.agent("history").exits(0);
    assert_eq!(history.out.lines().count(), 4, "{}", history.out);
    let broken = history.out.lines().find(|line| line.contains(" broken ")).unwrap();
    assert!(broken.contains(" failure ") && broken.contains("/nothing cannot be backed up"), "{broken}");
    assert_eq!(world.agent("history web").out.lines().count(), 2);
    assert_eq!(world.agent("history -n 1").out.lines().count(), 2);
    let runs = world.agent("history --json").exits(0).json();
    for key in [
        "run_id",
        "job",
        "started",
        "ended",
        "outcome",
        "trigger",
        "error",
        "degraded",
        "source_bytes",
        "stored_bytes",
    ] {
        assert!(runs[0].get(key).is_some(), "{key}: {runs}");
    }

    let status = world.agent("status").exits(0);
    let line = |job: &str| status.out.lines().find(|l| l.starts_with(job)).unwrap().to_owned();
    assert!(line("broken").contains("failure"), "{}", status.out);
    assert!(line("hand").contains("good") && line("hand").contains("no schedule"), "{}", status.out);
    assert!(line("web").contains("good") && line("web").contains("local 1"), "{}", status.out);
    assert!(status.out.contains("`agent --config "), "hints can be typed as they are: {}", status.out);
    let json = world.agent("status --json").exits(0).json();
    assert_eq!(json["status"]["jobs"].as_array().unwrap().len(), 3);
    assert!(
        json["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["job"] == "broken" && f["status"] == "critical")
    );

    let run =
        runs.as_array().unwrap().iter().find(|r| r["job"] == "web").unwrap()["run_id"].as_str().unwrap();
    let shown = world.agent(&format!("show {run} --json --log")).exits(0).json();
    for key in ["run", "copies", "manifest", "log"] {
        assert!(!shown[key].is_null(), "{key}: {shown}");
    }
    let failed = world.agent(&format!("show {} --log", broken.split(' ').next().unwrap())).exits(0);
    failed.says(&["outcome  failure\n", "(in preflight)", "\nlog\n", "ERROR"]);
}

#[test]
fn the_schedule_is_shown_in_the_zone_of_the_job() {
    let world = three();
    let schedule = world.agent("schedule").exits(0);
    assert!(
        schedule.out.contains("web: 0 3,11,19 * * * in Europe/Berlin, started by cron\n"),
        "{}",
        schedule.out
    );
    assert!(!schedule.out.ends_with("\n\n"), "{:?}", schedule.out);
    assert!(schedule.out.contains("hand: no schedule; it runs when it is started\n"), "{}", schedule.out);
    let times: Vec<&str> = schedule.out.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(times.len(), 20, "ten of each job: {}", schedule.out);
    assert!(times.iter().all(|t| t.ends_with(" CET") || t.ends_with(" CEST")), "{times:?}");
    let hours: Vec<&str> = world.agent("schedule web -n 3 --json").exits(0).json()[0]["next"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| &at.as_str().unwrap()[11..16])
        .map(|hour| ["03:00", "11:00", "19:00"].into_iter().find(|h| *h == hour).unwrap())
        .collect();
    assert_eq!(hours.len(), 3);
    world.agent("schedule nope").exits(2);
}

#[test]
fn the_metrics_are_clean_in_the_eyes_of_promtool() {
    let world = three();
    let metrics = world.agent("metrics").exits(0).out;
    for line in [
        "backup_last_run_success{backup_job=\"web\"} 1\n",
        "backup_last_run_success{backup_job=\"broken\"} 0\n",
        "backup_last_success_timestamp_seconds{backup_job=\"broken\"} 0\n",
        "backup_runs_total{backup_job=\"hand\"} 1\n",
        "backup_runs_failed_total{backup_job=\"broken\"} 1\n",
        "backup_backups{backup_job=\"web\",target=\"local\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    world.sh("\"$AGENT\" --config config.toml metrics | promtool check metrics");
}

#[test]
fn completions_are_scripts_their_shells_accept() {
    let world = World::empty();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.bare(&format!("completions {shell}")).exits(0).out;
        for word in ["backup", "restore", "monitor", "dry-run"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        world.write(shell, &script);
    }
    world.sh("bash -n bash; source ./bash; complete -p agent");
}

#[test]
fn help_explains_every_verb_and_the_exit_codes() {
    let world = World::empty();
    let help = world.bare("--help").exits(0).out;
    assert!(help.contains("Exit codes: 0 success or warning, 1 failure"), "{help}");
    assert!(help.contains("agent config init"), "{help}");
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(verbs.len() >= 19, "{verbs:?}");
    for verb in verbs {
        let text = world.bare(&format!("{verb} --help")).exits(0).out;
        assert!(text.contains("Usage: agent ") && text.contains("\nCommon options:\n"), "{verb}: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{verb}: {text}");
    }
    let check = world.bare("monitor --help").exits(0).out;
    assert!(check.contains("is `verify` here") && check.contains("3 UNKNOWN"), "{check}");
    assert!(world.bare("--version").exits(0).out.starts_with("agent "));
}

#[test]
fn a_state_that_is_not_there_yet_is_said_with_what_to_do() {
    let world = World::new(SIMPLE);
    for verb in
        ["list", "history", "show latest", "verify", "restore latest --to r", "prune", "prune --dry-run"]
    {
        let said = world.agent(verb);
        said.exits(1)
            .says(&["nothing has been recorded there yet; the first backup is made by: agent --config "]);
    }
    world.agent("list").says(&[
        "nothing has been recorded there yet; the first backup is made by: agent --config ",
        " backup, and those that a target holds already are made known by: agent --config ",
        " target scan local\n",
    ]);
    world.agent("status").exits(1).says(&["nothing has been recorded there yet"]);
}

#[test]
fn a_target_that_does_not_exist_is_wrong_usage_and_those_there_are_are_named() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    for verb in [
        "restore latest --to r",
        "drill",
        "verify",
        "ls latest",
        "cat latest x",
        "diff latest latest",
        "export latest --to x.tar",
        "pin latest",
        "copies",
        "repair",
        "prune",
    ] {
        let said = world.agent(&format!("{verb} --target nope"));
        said.exits(2).says(&["there is no target nope in the configuration; it has: local"]);
    }
}
