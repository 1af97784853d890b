//! Stubs in the place of a MySQL dump program.

use std::fs;

use backup_agent::source::Source;

use crate::scripts::{CANARY, Scripts, source, text};
use crate::stage::Stage;

const VERSION: &str =
    "case \"$*\" in *--version*) echo 'mariadb-dump from 99.1.2-MariaDB, client 10.19'; exit 0;; esac\n";

fn dump(stage: &Stage, body: &str) -> Box<dyn Source> {
    dump_within(stage, body, "10m")
}

fn dump_within(stage: &Stage, body: &str, timeout: &str) -> Box<dyn Source> {
    let program = stage.program("mariadb-dump", &format!("{VERSION}{body}"));
    let password = stage.file("password", CANARY, 0o600);
    source(&format!(
        "type = 'mysql'\nprogram = '{program}'\ndatabases = ['shop']\nuser = 'backup'\npassword_file = '{}'\ntimeout = '{timeout}'",
        password.display()
    ))
}

#[test]
fn a_dump_is_whole_with_exit_code_and_end_marker_only() {
    let stage = Stage::new();
    let good = "echo data; echo '-- Dump completed on 2026-11-24 19:00:00'";
    stage.read(&*dump(&stage, good)).1.unwrap();
    for (body, part) in [
        ("echo data", "cut off"),
        ("echo '-- Dump completed'; echo data", "cut off"),
        ("exit 0", "wrote nothing"),
        ("echo '-- Dump completed'; exit 2", "exit code 2"),
        ("echo '-- Dump completed'; kill -9 $$", "SIGKILL"),
        (
            "echo 'Got error: 1045: \"Access denied for user\"' >&2; exit 2",
            "refused the login of user backup",
        ),
    ] {
        let error = text(&stage.read(&*dump(&stage, body)).1.unwrap_err());
        assert!(error.contains(part), "{body}: {error}");
    }
    let hangs = dump_within(&stage, "echo data; sleep 600", "2s");
    let error = text(&stage.read(&*hangs).1.unwrap_err());
    assert!(error.contains("had not finished after 2s"), "{error}");
}

#[test]
fn the_password_reaches_the_program_by_a_private_file_that_is_gone_afterwards() {
    let stage = Stage::new();
    let seen = stage.dir.path().join("seen");
    let body = format!(
        "file=${{1#--defaults-file=}}\nstat -c %a \"$file\" > {seen}\ncat \"$file\" >> {seen}\nprintf '%s ' \"$@\" >> {seen}.args\nenv > {seen}.env\necho '-- Dump completed'",
        seen = seen.display()
    );
    stage.read(&*dump(&stage, &body)).1.unwrap();
    let read = |suffix: &str| fs::read_to_string(format!("{}{suffix}", seen.display())).unwrap();
    assert_eq!(read(""), format!("600\n[client]\nuser=\"backup\"\npassword=\"{CANARY}\"\n"));
    assert!(!read(".args").contains(CANARY) && read(".args").contains("--single-transaction"));
    assert!(!read(".env").contains(CANARY));
    assert_eq!(
        fs::read_dir(&stage.context.scratch).unwrap().count(),
        0,
        "something stayed in the scratch folder"
    );
}

#[test]
fn a_missing_dump_program_is_told_with_the_package_that_has_it() {
    let stage = Stage::new();
    let source = source("type = 'mysql'\nprogram = '/no/such/mariadb-dump'\ndatabases = ['shop']");
    let error = text(&source.preflight(&stage.context).unwrap_err());
    assert!(error.contains("/no/such/mariadb-dump") && error.contains("mariadb-client"), "{error}");
}
