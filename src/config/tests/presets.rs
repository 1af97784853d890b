//! Configurations nobody wrote in full.

use std::path::{Path, PathBuf};

use super::*;

#[test]
fn without_a_configuration_the_current_folder_goes_to_backups() {
    let folder = tempfile::tempdir().unwrap();
    let config = embedded_default(folder.path(), None);
    let job = &config.job["default"];
    let SourceConfig::Files(files) = &job.source["files"] else { panic!("not files") };
    assert_eq!(files.paths, [folder.path()]);
    assert_eq!(files.exclude, ["node_modules/", "__pycache__/", "/backups/"]);
    assert!(files.exclude_caches);
    assert_eq!(config.target["backups"].folder(), Some(folder.path().join("backups").as_path()));
    assert_eq!(config.state_dir, folder.path().join("backups/.backup-agent"));
    assert_eq!(
        config.target["backups"].keep,
        Some(Keep { last: Some(3), daily: Some(7), ..Keep::default() })
    );
    assert_eq!(job.schedule.as_deref(), Some("0 3,11,19 * * *"));
    assert!(job.schedule().is_some());
    assert!(validate::rules(&config, &Default::default()).is_empty());

    std::fs::write(folder.path().join("Cargo.toml"), "").unwrap();
    let config = embedded_default(folder.path(), Some(Path::new("a[1]/b")));
    let SourceConfig::Files(files) = &config.job["default"].source["files"] else { panic!("not files") };
    assert_eq!(files.exclude, ["node_modules/", "__pycache__/", "/a\\[1\\]/b/", "/target/"]);
    let elsewhere = embedded_default(folder.path(), Some(Path::new("/mnt/nas")));
    assert_eq!(elsewhere.target["backups"].folder(), Some(Path::new("/mnt/nas")));
    assert_eq!(elsewhere.state_dir, Path::new("/mnt/nas/.backup-agent"));
}

#[test]
fn one_backup_without_a_configuration_has_no_schedule_and_deletes_nothing() {
    let config = adhoc(&["/srv/a".into(), "relative".into()], Path::new("/mnt/out"), None);
    let job = &config.job["default"];
    assert!(job.schedule.is_none());
    let SourceConfig::Files(files) = &job.source["files"] else { panic!("not files") };
    assert_eq!(files.paths, [PathBuf::from("/srv/a"), std::env::current_dir().unwrap().join("relative")]);
    assert!(files.exclude.is_empty() && !files.exclude_caches, "a plain backup takes everything");
    assert_eq!(config.target["backups"].keep, None);
    assert_eq!(config.state_dir, Path::new("/mnt/out/.backup-agent"));
    assert_eq!(adhoc(&[], Path::new("/mnt/out"), Some(Path::new("/var/x"))).state_dir, Path::new("/var/x"));
}

#[test]
fn the_laravel_preset_takes_files_and_the_database_its_env_names() {
    let (site, root) = laravel("APP_KEY=x\nDB_CONNECTION=mysql\nDB_PASSWORD=hunter2\n");
    let sources = job(&site.good(), "web").source;
    let SourceConfig::Mysql(mysql) = &sources["database"] else { panic!("not mysql") };
    assert_eq!(mysql.env_file, Some(PathBuf::from(format!("{root}/.env"))));
    assert_eq!(mysql.timeout, MysqlConfig::default().timeout);
    let SourceConfig::Files(files) = &sources["application"] else { panic!("not files") };
    assert_eq!(files.paths, [PathBuf::from(&root)]);
    assert!(files.exclude.contains(&"/node_modules/".to_owned()));

    let (site, root) = laravel("DB_CONNECTION=\"sqlite\" # small\n");
    let sources = job(&site.good(), "web").source;
    let SourceConfig::Sqlite(sqlite) = &sources["database"] else { panic!("not sqlite") };
    assert_eq!(sqlite.path, PathBuf::from(format!("{root}/database/database.sqlite")));

    let (site, _) = laravel("DB_CONNECTION=pgsql\n");
    assert!(site.errors().contains("knows no DB_CONNECTION=pgsql"), "{}", site.errors());
    assert!(site.errors().starts_with("config.toml:11:10:"), "{}", site.errors());
}
