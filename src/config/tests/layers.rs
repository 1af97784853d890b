//! How layers make one configuration, and what is asked of it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::model::{ByteSize, TargetName};

#[test]
fn a_small_configuration_loads_and_every_default_is_filled_in() {
    let loaded = Site::new(BASE).good();
    let web = job(&loaded, "web");
    assert_eq!(web.grace, Duration::from_secs(3600));
    assert_eq!(web.engine.nice, 10);
    assert_eq!(web.health.max_shrink, None);
    assert_eq!(loaded.config.listen.to_string(), "127.0.0.1:9736");
    assert_eq!(loaded.config.target["local"].template, "daily/%Y/%m/%d/%H%M");
    assert_eq!(loaded.config.job_timezone(&web), chrono_tz::Europe::Berlin);
    assert_eq!(loaded.config.primary_target(&web).unwrap().0.as_str(), "local");
    assert!(web.schedule().is_some());
    assert_eq!(loaded.warnings, ["there is no [notify.…]: nobody is told when a backup fails"]);
}

#[test]
fn later_layers_win_key_by_key_and_tables_are_merged() {
    let loaded = Site::new(&format!("max_parallel_jobs = 1\n{BASE}"))
        .with_file(
            "conf.d/20.toml",
            "max_parallel_jobs = 3\n[job.web.source.application]\nunreadable = \"warn\"\n",
        )
        .with_file(
            "conf.d/10.toml",
            "max_parallel_jobs = 2\ncheck_interval = \"5m\"\n[job.web]\ngrace = \"2h\"\n",
        )
        .with_file("conf.d/.30.toml.swp", "no toml at all")
        .with_file("conf.d/.40.toml", "no toml at all")
        .with_file("conf.d/README", "no toml at all")
        .with_env("BACKUP_AGENT__JOB__WEB__GRACE", "3h")
        .with_env("BACKUP_AGENT_CONFIG", "/somewhere/else.toml")
        .good();
    assert_eq!(loaded.config.max_parallel_jobs, 3);
    assert_eq!(loaded.config.check_interval, Duration::from_secs(300));
    assert_eq!(job(&loaded, "web").grace, Duration::from_secs(3 * 3600));
    let SourceConfig::Files(files) = &job(&loaded, "web").source["application"] else { panic!("not files") };
    assert_eq!(files.paths, [PathBuf::from("/var/www")]);
    assert_eq!(files.unreadable, Unreadable::Warn);
    let names: Vec<_> =
        loaded.sources.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["config.toml", "10.toml", "20.toml"]);
}

#[test]
fn the_environment_reads_each_value_as_what_its_key_needs() {
    let text = format!("{BASE}\n[job.web.source.system-state]\ntype = \"system\"\n");
    let loaded = Site::new(&text)
        .with_env("BACKUP_AGENT__MAX_PARALLEL_JOBS", "4")
        .with_env("BACKUP_AGENT__HOST", "25")
        .with_env("BACKUP_AGENT__TARGET__LOCAL__REQUIRE_MOUNT", "true")
        .with_env("BACKUP_AGENT__TARGET__LOCAL__KEEP", "{ last = 3, within = \"2d\" }")
        .with_env("BACKUP_AGENT__TARGET__LOCAL__MIN_FREE", "10 GiB")
        .with_env("BACKUP_AGENT__JOB__WEB__SOURCE__APPLICATION__EXCLUDE", "*.tmp, /cache/")
        .with_env("BACKUP_AGENT__JOB__WEB__SOURCE__SYSTEM_STATE__EXTRA_PATHS", "[\"/opt/a,b\"]")
        .with_env("BACKUP_AGENT__JOB__WEB__SOURCE__LDAP__TYPE", "command")
        .with_env("BACKUP_AGENT__JOB__WEB__SOURCE__LDAP__COMMAND", "slapcat,-n,1")
        .good();
    assert_eq!(loaded.config.max_parallel_jobs, 4);
    assert_eq!(loaded.config.host.as_deref(), Some("25"));
    let local = &loaded.config.target["local"];
    assert!(local.requires_mount());
    assert_eq!(local.min_free, Some(ByteSize(10 << 30)));
    assert_eq!(local.keep.as_ref().unwrap().within, Some(Duration::from_secs(2 * 86_400)));
    let web = job(&loaded, "web");
    let SourceConfig::Files(files) = &web.source["application"] else { panic!("not files") };
    assert_eq!(files.exclude, ["*.tmp", "/cache/"]);
    let SourceConfig::System(system) = &web.source["system-state"] else { panic!("not system") };
    assert_eq!(system.extra_paths, [PathBuf::from("/opt/a,b")]);
    let SourceConfig::Command(command) = &web.source["ldap"] else { panic!("not a command") };
    assert_eq!(command.command, ["slapcat", "-n", "1"]);
}

#[test]
fn a_variable_for_no_key_is_refused() {
    let site = Site::new(BASE).with_env("BACKUP_AGENT__JOB__WEB__SHEDULE", "@daily");
    assert_eq!(
        site.errors(),
        "environment variable BACKUP_AGENT__JOB__WEB__SHEDULE: unknown key `shedule` in [job.web]; did you mean `schedule`?"
    );
}

#[test]
fn a_configuration_that_backs_nothing_up_or_tells_nobody_is_warned_about() {
    let empty = Site::new("timezone = \"UTC\"\n").good();
    assert_eq!(empty.warnings, ["there is no [job.…]: nothing is backed up"]);
    let open = Site::new(BASE);
    let file = open.folder.path().join("config.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o646)).unwrap();
    assert!(open.good().warnings.iter().any(|warning| warning.contains("chmod o-w")));
    let silent = Site::new(&format!(
        "{}\n[target.spare]\ntype = \"directory\"\npath = \"/mnt/spare\"\n{MAIL}password_file = \"/x\"\n",
        BASE.replace("schedule = \"0 3 * * *\"", "notify = []")
    ))
    .good();
    assert_eq!(
        silent.warnings,
        [
            "job web has no schedule: it never starts by itself and is never overdue",
            "job web has an empty `notify`: nobody is told when it fails",
            "no job uses the target spare",
        ]
    );
}

#[test]
fn channels_and_targets_of_a_job_are_found() {
    let text = format!(
        "{}{MAIL}password_file = \"/x\"\n
        [target.nas]\ntype = \"directory\"\npath = \"/mnt/nas\"\ntemplate = \"{{job}}/%F\"\n
        [job.other]\ntargets = [\"nas\"]\nnotify = []\nsource.s = {{ type = \"system\" }}\n",
        BASE.replace("[\"local\"]", "[\"local\", \"nas\"]")
    );
    let config = Site::new(&text).good().config;
    let web = &config.job["web"];
    let of = |job: &str| config.channels_for(&job.parse().unwrap()).len();
    assert_eq!((of("web"), of("other"), of("gone")), (1, 0, 1));
    let copies: Vec<_> = config.copy_targets(web).into_iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(copies, ["nas"]);
    assert!(config.shares_target(&TargetName::new("nas").unwrap()));
    assert!(!config.shares_target(&TargetName::new("local").unwrap()));
}

#[test]
fn durations_and_shares_are_written_as_they_are_read() {
    for (text, seconds) in [("90s", 90), ("1h", 3600), ("1d 12h", 129_600), ("2h 5m 3s", 7503)] {
        let read = duration::parse(text).unwrap();
        assert_eq!(read, Duration::from_secs(seconds), "{text}");
        assert_eq!(duration::parse(&duration::format(read)).unwrap(), read, "{text}");
    }
    for (text, share) in [("50%", 0.5), ("0%", 0.0), ("100 %", 1.0), ("12.5%", 0.125)] {
        let read = percent::parse(text).unwrap();
        assert!((read - share).abs() < 1e-9, "{text}");
        assert_eq!(percent::parse(&percent::format(read)).unwrap(), read, "{text}");
    }
    assert!(percent::parse("NaN%").is_err());
}
