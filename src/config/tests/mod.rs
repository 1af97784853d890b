//! Reading configurations, good and bad. Messages are compared whole: they are what an operator gets.

use super::*;

mod bad;
mod layers;
mod presets;
mod secrets;
mod texts;

/// A folder with a configuration file and what it needs to be valid.
struct Site {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    check_files: bool,
}

impl Site {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        Self { folder, env: Vec::new(), check_files: false }
    }

    fn with_file(self, name: &str, text: &str) -> Self {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> Result<Loaded, ConfigErrors> {
        load(&LoadOptions {
            file: Some(self.folder.path().join("config.toml")),
            conf_d: None,
            env: self.env.clone(),
            check_files: self.check_files,
        })
    }

    fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors as shown, with the name of the temporary folder left out.
    fn errors(&self) -> String {
        let errors = self.load().expect_err("the configuration was accepted").to_string();
        errors.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

const BASE: &str = r#"timezone = "Europe/Berlin"

[target.local]
type = "directory"
path = "/var/backups/web"

[job.web]
schedule = "0 3 * * *"
targets = ["local"]

[job.web.source.application]
type = "files"
paths = ["/var/www"]
"#;

fn job(loaded: &Loaded, name: &str) -> JobConfig {
    loaded.config.job[name].clone()
}

const MAIL: &str = r#"
[notify.admin]
type = "email"
smtp = "smtps://mail.example.org:465"
user = "backup"
from = "Backup <backup@example.org>"
to = ["admin@example.org"]
"#;

fn laravel(env: &str) -> (Site, String) {
    let site = Site::new("");
    let root = site.folder.path().join("shop");
    let (head, _) = BASE.split_once("\n[job.web.source").unwrap();
    let text = format!("{head}\npreset = \"laravel\"\npreset_path = {root:?}\n");
    std::fs::write(site.folder.path().join("config.toml"), text).unwrap();
    (site.with_file("shop/.env", env), root.display().to_string())
}
