use super::*;

fn sources(toml: &str) -> BTreeMap<ComponentName, SourceConfig> {
    toml::from_str(toml).unwrap()
}

#[test]
fn databases_come_first_then_files_then_the_system() {
    let toml = r#"
        a-system = { type = "system" }
        b-files = { type = "files", paths = ["/x"] }
        a-files = { type = "files", paths = ["/y"] }
        z-mysql = { type = "mysql", databases = ["x"] }
        y-sqlite = { type = "sqlite", path = "/z" }
        x-command = { type = "command", command = ["pg_dumpall"], extension = "sql" }
    "#;
    let built = build_all(&sources(toml)).unwrap();
    let names: Vec<String> = built.iter().map(|source| source.file_name()).collect();
    assert_eq!(
        names,
        ["x-command.sql", "y-sqlite.sqlite", "z-mysql.sql", "a-files.tar", "b-files.tar", "a-system.tar"]
    );
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    for (toml, part) in [
        (r#"type = "command", command = []"#, "no program"),
        (r#"type = "command", command = ["./dump"]"#, "absolute"),
        (r#"type = "command", command = ["x"], extension = "../x""#, "extension"),
        (r#"type = "command", command = ["x"], env = { "A=B" = "1" }"#, "A=B"),
        (r#"type = "command", command = ["x"], end_marker = " \n""#, "white space"),
        (r#"type = "mysql", extra_args = ["--password=hunter2"]"#, "--password is not possible"),
        (r#"type = "mysql", extra_args = ["-phunter2"]"#, "-p is not possible"),
        (r#"type = "mysql", extra_args = ["--compact"]"#, "end marker"),
        (r#"type = "mysql", extra_args = ["shop"]"#, "not an option"),
        (r#"type = "mysql", databases = ["--all"]"#, "name of a database"),
        (r#"type = "mysql", password_file = "pw""#, "absolute"),
    ] {
        let error = build_all(&sources(&format!("db = {{ {toml} }}"))).err().expect(toml);
        let text = format!("{error:#}");
        assert!(
            text.contains("source db") && text.contains(part) && !text.contains("hunter2"),
            "{toml}: {text}"
        );
    }
}

#[test]
fn a_path_that_cannot_be_backed_up_is_named_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let context = Context { scratch: dir.path().to_owned(), progress: Arc::default() };
    let try_paths = |paths: &[&std::path::Path]| {
        let config = crate::config::FilesConfig {
            paths: paths.iter().map(|path| path.to_path_buf()).collect(),
            ..crate::config::FilesConfig::default()
        };
        FilesSource::new(ComponentName::new("app").unwrap(), config).preflight(&context)
    };
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    assert!(try_paths(&[&real]).unwrap().is_empty());
    assert!(try_paths(&[&link]).unwrap().is_empty());
    for (paths, part) in [
        (vec![], "nothing to back up"),
        (vec![dir.path().join("none")], "none cannot be backed up"),
        (vec![dangling], "symbolic link to nowhere"),
        (vec![real.clone(), dir.path().to_owned()], "lies inside"),
        (vec![real.clone(), real.clone()], "twice"),
        (vec![PathBuf::from("relative")], "not an absolute path"),
    ] {
        let paths: Vec<&std::path::Path> = paths.iter().map(PathBuf::as_path).collect();
        let error = format!("{:#}", try_paths(&paths).unwrap_err());
        assert!(error.contains(part), "{error}");
    }
}
