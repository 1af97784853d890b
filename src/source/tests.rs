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
        w-postgres = { type = "postgres" }
        v-redis = { type = "redis" }
        z-mysql = { type = "mysql", databases = ["x"] }
        y-sqlite = { type = "sqlite", path = "/z" }
        x-command = { type = "command", command = ["pg_dumpall"], extension = "sql" }
    "#;
    let built = build_all(&sources(toml)).unwrap();
    let names: Vec<&str> = built.iter().map(|source| source.name().as_str()).collect();
    assert_eq!(
        names,
        ["v-redis", "w-postgres", "x-command", "y-sqlite", "z-mysql", "a-files", "b-files", "a-system"]
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
        (r#"type = "postgres", extra_args = ["-Fp"]"#, "-F is not possible"),
        (r#"type = "postgres", databases = ["a["]"#, "pattern"),
        (r#"type = "redis", password_file = "pw""#, "absolute"),
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
    let context = Context::new(dir.path().to_owned(), Arc::default());
    let try_paths = |paths: &[&std::path::Path]| {
        let config = crate::config::FilesConfig {
            paths: paths.iter().map(|path| path.to_path_buf()).collect(),
            ..crate::config::FilesConfig::default()
        };
        FilesSource::new(ComponentName::new("app").unwrap(), config).preflight(&context)
    };
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    assert!(try_paths(&[&real]).unwrap().warnings.is_empty());
    let ready = try_paths(&[&link]).unwrap();
    assert!(ready.warnings.is_empty());
    assert_eq!(ready.parts[0].file_name, "app.tar");
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
