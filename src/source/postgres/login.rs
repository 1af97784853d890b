//! How PostgreSQL's programs log in: by environment variables, and a pgpass file for the password.

use std::path::Path;

use crate::config::PostgresConfig;
use crate::model::{ComponentName, Secret};
use crate::process::Command;
use crate::secret_file::{self, Readers, TemporarySecret};
use crate::source::StreamSource;

/// What messages call the two ends of a login.
#[derive(Debug, Clone)]
pub(super) struct Words {
    /// Who logs in.
    pub(super) user: String,
    /// Where the server is.
    pub(super) place: String,
}

/// Everything a program needs to log in.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) words: Words,
    env: Vec<(&'static str, String)>,
    /// To be hidden in what programs say.
    password: Option<Secret>,
    /// The pgpass file made for this login; it must live until the program has connected.
    _file: Option<TemporarySecret>,
}

impl Login {
    /// Collects the login that `config` describes, and writes its pgpass file into `scratch` where one is
    /// needed, named after the component `name`.
    pub(super) fn new(name: &ComponentName, config: &PostgresConfig, scratch: &Path) -> anyhow::Result<Self> {
        let password = match (&config.password, &config.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, file) => file.as_deref().map(secret_file::read).transpose()?,
        };
        let host =
            config.host.clone().or_else(|| config.socket.as_ref().map(|path| path.display().to_string()));
        let mut env = vec![("PGAPPNAME", "backup-agent".to_owned()), ("PGCONNECT_TIMEOUT", "10".to_owned())];
        env.extend(host.clone().map(|host| ("PGHOST", host)));
        env.extend(config.port.map(|port| ("PGPORT", port.to_string())));
        env.extend(config.user.clone().map(|user| ("PGUSER", user)));
        let mut file = None;
        if let Some(password) = &password {
            // Every field but the password is open: this file is for this login alone.
            let line = format!("*:*:*:*:{}\n", escape(password.expose()));
            let written = TemporarySecret::write(scratch.join(format!(".{name}.pgpass")), &line)?;
            env.push(("PGPASSFILE", written.path().display().to_string()));
            file = Some(written);
        } else if let Some(path) = &config.passfile {
            secret_file::check(path, Readers::Owner)?;
            env.push(("PGPASSFILE", path.display().to_string()));
        }
        let user = match (&config.user, &config.run_as) {
            (Some(user), _) | (None, Some(user)) => format!("user {user}"),
            (None, None) => "the current user".to_owned(),
        };
        let place = match (host, config.port) {
            (None, None) => "the local socket".to_owned(),
            (None, Some(port)) => format!("the local socket, port {port}"),
            (Some(host), None) => host,
            (Some(host), Some(port)) => format!("{host}, port {port}"),
        };
        Ok(Self { words: Words { user, place }, env, password, _file: file })
    }

    /// Gives a program what it needs to log in.
    pub(super) fn environment(&self, mut command: Command) -> Command {
        for (key, value) in &self.env {
            command = command.env(*key, value);
        }
        match &self.password {
            Some(password) => command.hide(password.clone()),
            None => command,
        }
    }
}

/// A field of a pgpass file: colons and backslashes are escaped.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

/// A value in a connection string.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A stream whose login lives as long as it does.
pub(super) struct WithLogin {
    inner: Box<dyn StreamSource>,
    login: Login,
}

impl WithLogin {
    pub(super) fn new(inner: Box<dyn StreamSource>, login: Login) -> Self {
        Self { inner, login }
    }
}

impl StreamSource for WithLogin {
    fn reader(&mut self) -> &mut (dyn std::io::Read + Send) {
        self.inner.reader()
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self { inner, login } = *self;
        let result = inner.finish();
        drop(login);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_stands_in_a_private_file_and_in_no_variable() {
        let dir = tempfile::tempdir().unwrap();
        let config = PostgresConfig { password: Some(Secret::new("p:a\\s")), ..PostgresConfig::default() };
        let login = Login::new(&ComponentName::new("db").unwrap(), &config, dir.path()).unwrap();
        let path = dir.path().join(".db.pgpass");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "*:*:*:*:p\\:a\\\\s\n");
        assert!(!format!("{:?}", login.env).contains("p:a"), "{:?}", login.env);
        assert!(!format!("{login:?}").contains("p:a"));
        drop(login);
        assert!(!path.exists());
    }

    #[test]
    fn a_database_of_any_name_is_one_value_of_a_connection_string() {
        assert_eq!(quote("it's a \\ host=x"), "'it\\'s a \\\\ host=x'");
    }
}
