//! Bad configurations: every message, whole, with its place.

use std::path::Path;

use super::*;

/// The cases of `testdata/bad.txt`: what, piece, replacement, errors.
fn bad_cases(text: &str) -> Vec<[&str; 4]> {
    text.split("=== ")
        .skip(1)
        .map(|case| {
            let (what, rest) = case.split_once("\n--- instead of\n").unwrap();
            let (from, rest) = rest.split_once("\n--- write\n").unwrap();
            let (to, errors) = rest.split_once("--- errors\n").unwrap();
            [what, from, to.trim_end_matches('\n'), errors.trim_end()]
        })
        .collect()
}

#[test]
fn bad_configurations_are_refused_with_place_and_meaning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata/bad.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once("=== ").unwrap();
    let mut seen = head.to_owned();
    for [what, from, to, _] in bad_cases(&text) {
        assert!(BASE.contains(from), "{what}: the good configuration has no {from:?}");
        let errors = Site::new(&BASE.replacen(from, to, 1)).errors();
        assert!(!errors.contains("hunter2"), "{what}: a password is shown:\n{errors}");
        seen.push_str(&format!(
            "=== {what}\n--- instead of\n{from}\n--- write\n{to}\n--- errors\n{errors}\n\n"
        ));
    }
    let seen = format!("{}\n", seen.trim_end());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &seen).unwrap();
    }
    for (seen, wanted) in bad_cases(&seen).into_iter().zip(bad_cases(&text)) {
        assert_eq!(seen[3], wanted[3], "{}:\n{}", seen[0], seen[3]);
    }
}

#[test]
fn everything_wrong_in_all_layers_is_told_at_once_in_the_order_of_files_and_lines() {
    let site = Site::new(&BASE.replace("\"0 3 * * *\"", "\"0 25 * * *\"").replace("\"local\"", "\"locl\""))
        .with_file(
            "conf.d/10-nas.toml",
            "[target.nas]\ntype = \"directory\"\npath = \"mnt/nas\"\nkeep = { dayly = 7 }\n",
        )
        .with_file("conf.d/20-mail.toml", "listen = \"0.0.0.0:9736\"\n[notify.admin]\ntype = \"email\"\n")
        .with_env("BACKUP_AGENT__MAX_PARALLEL_JOBS", "many")
        .with_env("BACKUP_AGENT__JOB__WEB__GRACE", "an hour");
    assert_eq!(
        site.errors(),
        r#"config.toml:8:12: expected a crontab line such as "0 3,11,19 * * *", found "0 25 * * *": hour 25: allowed are 0 to 23
  8 | schedule = "0 25 * * *"
    |            ^^^^^^^^^^^^
config.toml:9:12: there is no [target.locl]; did you mean "local"?
  9 | targets = ["locl"]
    |            ^^^^^^
conf.d/10-nas.toml:3:8: expected an absolute path such as "/var/backups", found "mnt/nas": the path must be absolute (start with /)
  3 | path = "mnt/nas"
    |        ^^^^^^^^^
conf.d/10-nas.toml:4:10: unknown key `dayly` in [target.nas.keep]; did you mean `daily`?
  4 | keep = { dayly = 7 }
    |          ^^^^^
conf.d/20-mail.toml:1:10: 0.0.0.0:9736 can be reached by other machines; say `allow_remote = true` if that is meant, or listen on 127.0.0.1
  1 | listen = "0.0.0.0:9736"
    |          ^^^^^^^^^^^^^^
conf.d/20-mail.toml:2:9: `from` is missing in [notify.admin] (Sender); for example `from = "admin@example.org"`
  2 | [notify.admin]
    |         ^^^^^
conf.d/20-mail.toml:2:9: `smtp` is missing in [notify.admin] (`smtps://host:465`, `smtp://host:587?tls=required`, or `smtp://127.0.0.1:25` without TLS on loopback); for example `smtp = "smtps://mail.example.org:465"`
  2 | [notify.admin]
    |         ^^^^^
conf.d/20-mail.toml:2:9: `to` is missing in [notify.admin] (Receivers); for example `to = ["admin@example.org"]`
  2 | [notify.admin]
    |         ^^^^^
environment variable BACKUP_AGENT__JOB__WEB__GRACE: expected a duration such as "1h 30m", found "an hour": expected number at 0
environment variable BACKUP_AGENT__MAX_PARALLEL_JOBS: expected a whole number from 1, without quotes, found a text"#
    );
}

#[test]
fn with_a_syntax_error_the_other_files_are_still_checked_but_nothing_between_files() {
    let site = Site::new(&BASE.replace("\"local\"", "\"nas\""))
        .with_file("conf.d/nas.toml", "[target.nas\n")
        .with_file("conf.d/other.toml", "frequency = 1\nlisten = \"localhost\"\n");
    let errors = site.errors();
    assert!(
        errors.starts_with("conf.d/nas.toml:1:12: syntax error: unclosed table, expected `]`"),
        "{errors}"
    );
    assert!(errors.contains("conf.d/other.toml:1:1: unknown key `frequency` at the top level"), "{errors}");
    assert!(errors.contains("conf.d/other.toml:2:10: expected an address and port"), "{errors}");
    assert!(!errors.contains("no [target.nas]"), "what the broken file holds is not known:\n{errors}");
}

#[test]
fn a_broken_rule_points_at_the_layer_that_set_the_key_last() {
    let over = Site::new(&format!("listen = \"127.0.0.1:1\"\n{BASE}"))
        .with_file("conf.d/a.toml", "listen = \"[::]:1\"\n");
    assert!(over.errors().starts_with("conf.d/a.toml:1:10: [::]:1 can be reached"), "{}", over.errors());
    let section = Site::new(&BASE.replace("targets =", "aims ="))
        .with_env("BACKUP_AGENT__JOB__WEB__GRACE", "2h")
        .errors();
    assert!(section.contains("config.toml:7:6: `targets` is missing in [job.web]"), "{section}");
    let env = Site::new(BASE).with_env("BACKUP_AGENT__LISTEN", "0.0.0.0:1");
    assert!(env.errors().starts_with("environment variable BACKUP_AGENT__LISTEN: 0.0.0.0:1 can be reached"));
}

#[test]
fn no_configuration_is_told_apart_from_a_bad_one() {
    let site = Site::new("");
    let missing = LoadOptions {
        file: Some(site.folder.path().join("nothing.toml")),
        conf_d: None,
        env: Vec::new(),
        check_files: true,
    };
    let errors = load(&missing).expect_err("there is none");
    assert!(errors.missing);
    assert!(errors.to_string().contains("nothing.toml: cannot be read: No such file"), "{errors}");

    let not_text = Site::new("");
    let bytes = b"listen = \"127.0.0.1:1\"\nhost = \"\xff\"\n";
    std::fs::write(not_text.folder.path().join("config.toml"), bytes).unwrap();
    assert_eq!(not_text.errors(), "config.toml: cannot be read: line 2 is not UTF-8 text");
    assert!(!not_text.load().expect_err("no text").missing);
}

#[test]
fn secrets_on_a_shown_line_are_masked() {
    for (line, shown) in [
        ("password = \"hunter2\"", "password = …"),
        ("passfile = \"/etc/pgpass\"", "passfile = \"/etc/pgpass\""),
        ("a = { smtp_password = 'hunter2', x = 1 }", "a = { smtp_password = …"),
        ("\"api_key\" = 'hunter2'", "\"api_key\" = …"),
        ("pass\"word = \"hunter2\"", "pass\"word = …"),
        ("password \"= \"hunter2\"", "password \"= …"),
        ("password_file = \"/etc/x\"", "password_file = \"/etc/x\""),
        ("smtp = \"smtp://u:hunter2@host/\"", "smtp = \"smtp://…@host/\""),
        ("schedule = \"0 3 * * *\"", "schedule = \"0 3 * * *\""),
    ] {
        assert_eq!(positions::mask("[notify.x]", line), shown);
    }
    assert_eq!(positions::mask("pas", "[sword = \"hunter2\""), "[sword = …");
    assert_eq!(positions::mask("to", "ken = \"hunter2\""), "ken = …");
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic_or_show_a_secret() {
    let whole = format!("{}\n[notify.x]\npassword = \"hunter2\"\n", texts::whole_example());
    let lines: Vec<&str> = whole.lines().collect();
    let without_line = (0..lines.len()).map(|gone| [&lines[..gone], &lines[gone + 1..]].concat().join("\n"));
    let cut = (0..whole.len())
        .step_by(31)
        .filter(|at| whole.is_char_boundary(*at))
        .map(|at| whole[..at].to_owned());
    let with = |piece: &'static str| {
        let whole = &whole;
        (0..whole.len())
            .step_by(97)
            .filter(|at| whole.is_char_boundary(*at))
            .map(move |at| format!("{}{piece}{}", &whole[..at], &whole[at..]))
    };
    for text in
        without_line.chain(cut).chain(with("\"")).chain(with("ä\0")).chain(with("\n[")).chain(with("{"))
    {
        if let Err(errors) = Site::new(&text).load() {
            let shown = errors.to_string();
            assert!(!shown.is_empty() && !shown.contains("hunter2"), "{shown}");
        }
    }
}
