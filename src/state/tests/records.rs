use super::*;
use crate::manifest::FileWarning;
use crate::model::WarningKind;

#[test]
fn the_record_of_a_job_has_its_latest_runs_with_their_copies() {
    let f = Fixture::new();
    let ids: Vec<RunId> = (0..5).map(|n| f.run_of_size(n * 10, 100, 1)).collect();
    f.begin_job(&"other".parse().unwrap(), 60);
    let running = f.begin(70);
    let record = f.state.job_record(&job(), 3).unwrap();
    let found: Vec<&RunId> = record.runs.iter().map(|run| &run.run_id).collect();
    assert_eq!(found, [&running, &ids[4], &ids[3]]);
    let copies: Vec<_> = record.copies.iter().map(|c| (&c.run_id, c.target.as_str())).collect();
    assert_eq!(copies, [(&ids[3], "local"), (&ids[3], "nas"), (&ids[4], "local"), (&ids[4], "nas")]);
    assert_eq!(f.state.job_record(&"nobody".parse().unwrap(), 3).unwrap(), JobRecord::default());
}

#[test]
fn the_record_of_a_run_has_its_copies_messages_and_log() {
    let f = Fixture::new();
    let id = f.begin(0);
    let told = |id: &RunId, name: &str| NewMessage {
        run_id: Some(id.clone()),
        ..mail(MessageKind::Failure, name, "a@example.org")
    };
    let ended = EndedRun::new(id.clone(), Outcome::Failure, at(1));
    f.state.end_run(&ended, &[pending(), primary(9)], &[told(&id, "one"), told(&id, "two")]).unwrap();
    f.state.enqueue(&[told(&RunId::generate(at(2)), "other")], at(2)).unwrap();
    f.state.set_run_log(&id, "a line\n", at(1)).unwrap();
    let record = f.state.run_record(&id).unwrap().unwrap();
    assert_eq!(record.run.outcome, Some(Outcome::Failure));
    let targets: Vec<&str> = record.copies.iter().map(|copy| copy.target.as_str()).collect();
    assert_eq!(targets, ["local", "nas"]);
    let messages: Vec<&str> = record.messages.iter().map(|message| message.message_id.as_str()).collect();
    assert_eq!(messages, ["one", "two"]);
    assert_eq!(record.log.as_deref(), Some("a line\n"));
    assert_eq!(f.state.run_record(&RunId::generate(at(3))).unwrap(), None);
}

#[test]
fn warnings_are_read_for_those_runs_that_have_any() {
    let f = Fixture::new();
    let quiet = f.run_of_size(0, 100, 1);
    let id = f.begin(10);
    let warning = FileWarning { kind: WarningKind::Changed, path: "log/a".into(), detail: "grew".into() };
    let mut ended = EndedRun::new(id.clone(), Outcome::Warning, at(11));
    ended.warning_counts.changed = 1;
    ended.warnings = vec![warning.clone()];
    f.state.end_run(&ended, &[], &[]).unwrap();
    let found = f.state.warnings_of(&[quiet, id.clone(), RunId::generate(at(12))]).unwrap();
    assert_eq!(found, [(id, vec![warning])].into());
}

#[test]
fn a_run_keeps_the_digests_of_its_components_and_those_of_older_versions_have_none() {
    let f = Fixture::new();
    let id = f.begin(0);
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let mut ended = EndedRun::new(id.clone(), Outcome::Success, at(1));
    ended.components = ["a", "b"]
        .map(|name| ComponentSummary {
            name: name.parse().unwrap(),
            source_bytes: 1,
            stored_bytes: 1,
            entries: 0,
            warning_counts: WarningCounts::default(),
            sha256: (name == "a").then(|| digest.parse().unwrap()),
        })
        .to_vec();
    f.state.end_run(&ended, &[], &[]).unwrap();
    let run = f.state.run(&id).unwrap().unwrap();
    let digests: Vec<_> = run.components.iter().map(|c| c.sha256.map(|d| d.to_string())).collect();
    assert_eq!(digests, [Some(digest.to_owned()), None]);
    // As it was written before.
    let old = r#"{"name":"a","source_bytes":1,"stored_bytes":1,"entries":0}"#;
    assert_eq!(serde_json::from_str::<ComponentSummary>(old).unwrap().sha256, None);
}
