//! How a client program logs in. Passwords reach it by an option file, never by an argument or a variable.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::super::dotenv::Dotenv;
use super::option_file::Named;
use crate::config::MysqlConfig;
use crate::model::{ComponentName, Secret};
use crate::secret_file::{self, Readers, TemporarySecret};

/// More than any `.env` file.
const MAX_ENV: u64 = 1 << 20;
/// Laravel's own default where `.env` names no host.
const LARAVEL_HOST: &str = "127.0.0.1";

/// Everything a client program needs to log in.
#[derive(Debug)]
pub(super) struct Login {
    /// The first arguments of the program; the order matters to it.
    pub(super) args: Vec<OsString>,
    /// Who logs in, for messages.
    pub(super) user: String,
    /// Where the server is, for messages.
    pub(super) place: String,
    /// Where the password comes from, for messages.
    pub(super) origin: String,
    /// To be hidden in what programs say.
    pub(super) password: Option<Secret>,
    /// Databases that the login's source names, where the configuration names none.
    pub(super) databases: Vec<String>,
    /// The option file made for this login; it must live until the program has read it.
    pub(super) file: Option<TemporarySecret>,
}

/// The parts of a login, merged from the configuration and `.env`.
#[derive(Debug, Default)]
struct Parts {
    host: Option<String>,
    port: Option<u16>,
    socket: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    ssl_ca: Option<String>,
}

impl Login {
    /// Collects the login that `config` describes, and writes its option file into `scratch` where one is
    /// needed. What the configuration says wins over what `.env` says.
    pub(super) fn new(name: &ComponentName, config: &MysqlConfig, scratch: &Path) -> anyhow::Result<Self> {
        let mut databases = config.databases.clone();
        let mut parts = Parts {
            host: config.host.clone(),
            port: config.port,
            socket: config.socket.as_deref().map(text_of).transpose()?,
            user: config.user.clone(),
            password: match (&config.password, &config.password_file) {
                (Some(password), _) => Some(password.clone()),
                (None, file) => file.as_deref().map(secret_file::read).transpose()?,
            },
            ssl_ca: None,
        };
        if let Some(path) = &config.defaults_file {
            secret_file::check(path, Readers::Owner)?;
        }
        if let Some(path) = &config.env_file {
            let env = read_env(path)?;
            parts.fill_from(&env).with_context(|| format!("the database settings in {}", path.display()))?;
            if databases.is_empty() {
                let database = env.setting("DB_DATABASE");
                databases.extend(database.map(str::to_owned));
                ensure!(
                    database.is_some(),
                    "{} sets no DB_DATABASE, and the source names no databases",
                    path.display()
                );
            }
        }

        let file =
            [&config.password_file, &config.env_file, &config.defaults_file].into_iter().flatten().next();
        let origin = match (&config.password, file) {
            (Some(_), _) => "the environment".to_owned(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "the client's own option files".to_owned(),
        };
        let named = config.defaults_file.as_deref().map(Named::read).unwrap_or_default();
        let user = match (parts.user.as_ref().or(named.user.as_ref()), &config.defaults_file) {
            (Some(user), _) => format!("user {user}"),
            (None, Some(file)) => format!("the user named in {}", file.display()),
            (None, None) => "the current user".to_owned(),
        };
        // What the configuration says of the server wins over the option file.
        let elsewhere = parts.socket.is_some() || parts.host.is_some();
        let (socket, host, port) = match elsewhere {
            true => (&parts.socket, &parts.host, parts.port),
            false => (&named.socket, &named.host, parts.port.or(named.port)),
        };
        let place = match (socket, host, port) {
            (Some(socket), _, _) => socket.clone(),
            (None, Some(host), Some(port)) if host != "localhost" => format!("{host}, port {port}"),
            (None, Some(host), _) => host.clone(),
            (None, None, _) if config.defaults_file.is_some() => format!("the host named in {origin}"),
            (None, None, _) => "localhost".to_owned(),
        };

        let mut args = Vec::new();
        let mut file = None;
        if parts.password.is_some() {
            let content = parts.option_file(config.defaults_file.as_deref())?;
            let written = TemporarySecret::write(scratch.join(format!(".{name}.cnf")), &content)?;
            args.push(argument("--defaults-file=", written.path()));
            file = Some(written);
        } else {
            // Only this file: else ~/.my.cnf would win over it.
            args.extend(config.defaults_file.as_deref().map(|path| argument("--defaults-file=", path)));
            args.extend(parts.options().into_iter().map(|(key, value)| format!("--{key}={value}").into()));
        }
        Ok(Self { args, user, place, origin, password: parts.password, databases, file })
    }
}

impl Parts {
    fn fill_from(&mut self, env: &Dotenv) -> anyhow::Result<()> {
        if let Some(connection) = env.setting("DB_CONNECTION")
            && !["mysql", "mariadb"].contains(&connection)
        {
            bail!("DB_CONNECTION is {connection}: this source is for mysql and mariadb");
        }
        for key in ["DB_URL", "DATABASE_URL"] {
            ensure!(
                env.setting(key).is_none(),
                "{key} is set, which this source does not read: give it host, user, password_file and databases instead"
            );
        }
        // A host, port or socket in the configuration replaces the place in `.env` as a whole.
        if self.host.is_none() && self.socket.is_none() {
            self.socket = env.setting("DB_SOCKET").map(str::to_owned);
            self.host = Some(env.setting("DB_HOST").unwrap_or(LARAVEL_HOST).to_owned());
            if self.port.is_none() {
                let port = env.setting("DB_PORT").map(str::parse).transpose();
                self.port = port.context("DB_PORT is not a port number")?;
            }
        }
        if self.user.is_none() {
            self.user = env.setting("DB_USERNAME").map(str::to_owned);
        }
        if self.password.is_none() {
            self.password = env.setting("DB_PASSWORD").map(Secret::new);
        }
        self.ssl_ca = env.setting("MYSQL_ATTR_SSL_CA").map(str::to_owned);
        Ok(())
    }

    /// Everything but the password.
    fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = Vec::new();
        // A socket is used with the host `localhost` only.
        let host = if self.socket.is_some() { Some("localhost".to_owned()) } else { self.host.clone() };
        options.extend(host.map(|host| ("host", host)));
        options.extend(self.socket.clone().map(|socket| ("socket", socket)));
        options.extend(self.port.map(|port| ("port", port.to_string())));
        options.extend(self.user.clone().map(|user| ("user", user)));
        options.extend(self.ssl_ca.clone().map(|path| ("ssl-ca", path)));
        options
    }

    /// An option file with all of it, on top of another one.
    fn option_file(&self, base: Option<&Path>) -> anyhow::Result<String> {
        let mut text = String::new();
        if let Some(base) = base {
            let base = text_of(base)?;
            ensure!(!base.contains('\n'), "defaults_file must not have a line end in its name");
            text.push_str(&format!("!include {base}\n"));
        }
        text.push_str("[client]\n");
        let password = self.password.as_ref().map(|password| ("password", password.expose().to_owned()));
        for (key, value) in self.options().into_iter().chain(password) {
            text.push_str(&format!("{key}={}\n", quote(&value)));
        }
        Ok(text)
    }
}

/// A value as option files want it: in double quotes nothing ends it but its own quote, and a backslash
/// escapes. (Unquoted, `#` would begin a comment and white space at the ends would be lost.)
fn quote(value: &str) -> String {
    let mut out = String::from('"');
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn argument(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

fn read_env(path: &Path) -> anyhow::Result<Dotenv> {
    let reading = || format!("reading the database settings in {}", path.display());
    let mut text = String::new();
    // The application reads the file as another user of its group.
    secret_file::open(path, Readers::Group)?.take(MAX_ENV).read_to_string(&mut text).with_context(reading)?;
    Dotenv::parse(&text).with_context(reading)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn login(&self, config: MysqlConfig) -> anyhow::Result<Login> {
            Login::new(&ComponentName::new("database").unwrap(), &config, self.0.path())
        }
    }

    fn config() -> MysqlConfig {
        MysqlConfig::default()
    }

    fn content(login: &Login) -> String {
        fs::read_to_string(login.file.as_ref().unwrap().path()).unwrap()
    }

    #[test]
    fn a_password_stands_in_a_private_file_and_in_no_argument() {
        let dir = Fixture::new();
        let password_file = Some(dir.file("pw", "a#b\"c\\d 'e'\n", 0o600));
        let login =
            dir.login(MysqlConfig { user: Some("backup".into()), password_file, ..config() }).unwrap();
        assert_eq!(content(&login), "[client]\nuser=\"backup\"\npassword=\"a#b\\\"c\\\\d 'e'\"\n");
        let args = format!("{:?}", login.args);
        assert!(!args.contains("a#b") && args.contains("--defaults-file="), "{args}");
        assert!(!format!("{login:?}").contains("a#b"));
    }

    #[test]
    fn an_option_file_is_passed_on_with_what_the_configuration_adds() {
        let dir = Fixture::new();
        let file = dir.file("my.cnf", "[client]\npassword=x\n", 0o600);
        let login = dir
            .login(MysqlConfig { defaults_file: Some(file.clone()), host: Some("db".into()), ..config() })
            .unwrap();
        assert_eq!(login.args, [argument("--defaults-file=", &file), "--host=db".into()]);
        assert!(login.file.is_none());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = dir.login(MysqlConfig { defaults_file: Some(file), ..config() }).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn laravels_settings_make_a_login_and_name_the_database() {
        let dir = Fixture::new();
        let env = "DB_CONNECTION=mysql\nDB_HOST=127.0.0.1\nDB_PORT=3307\nDB_DATABASE=askproai_db\nDB_USERNAME=app\nDB_PASSWORD=\"p#w\"\n";
        let login =
            dir.login(MysqlConfig { env_file: Some(dir.file(".env", env, 0o640)), ..config() }).unwrap();
        assert_eq!(login.databases, ["askproai_db"]);
        assert_eq!(login.place, "127.0.0.1, port 3307");
        assert_eq!(
            content(&login),
            "[client]\nhost=\"127.0.0.1\"\nport=\"3307\"\nuser=\"app\"\npassword=\"p#w\"\n"
        );
    }

    #[test]
    fn a_socket_in_dotenv_wins_over_its_host_and_the_configuration_over_both() {
        let dir = Fixture::new();
        let env = || {
            Some(dir.file(
                ".env",
                "DB_SOCKET=/run/s.sock\nDB_DATABASE=a\nDB_USERNAME=app\nDB_PASSWORD=null\n",
                0o640,
            ))
        };
        let login = dir.login(MysqlConfig { env_file: env(), ..config() }).unwrap();
        assert_eq!(login.args, ["--host=localhost", "--socket=/run/s.sock", "--user=app"]);
        let login = dir
            .login(MysqlConfig {
                env_file: env(),
                host: Some("db".into()),
                user: Some("backup".into()),
                databases: vec!["b".into()],
                ..config()
            })
            .unwrap();
        assert_eq!(login.args, ["--host=db", "--user=backup"]);
        assert_eq!(login.databases, ["b"]);
    }

    #[test]
    fn a_password_from_the_environment_goes_the_same_way() {
        let dir = Fixture::new();
        let login = dir.login(MysqlConfig { password: Some(Secret::new("hunter2")), ..config() }).unwrap();
        assert_eq!(content(&login), "[client]\npassword=\"hunter2\"\n");
        assert_eq!(login.origin, "the environment");
    }

    #[test]
    fn a_dotenv_that_every_user_can_read_is_refused() {
        let dir = Fixture::new();
        let env_file = Some(dir.file(".env", "DB_DATABASE=a\n", 0o644));
        let error = dir.login(MysqlConfig { env_file, ..config() }).unwrap_err().to_string();
        assert!(error.contains("chmod 640"), "{error}");
    }

    #[test]
    fn settings_of_other_databases_are_refused() {
        let dir = Fixture::new();
        for (env, part) in [
            ("DB_CONNECTION=pgsql\nDB_DATABASE=a\n", "pgsql"),
            ("DB_URL=mysql://u:hunter2@h/d\nDB_DATABASE=a\n", "DB_URL"),
            ("DB_HOST=x\n", "DB_DATABASE"),
            ("DB_DATABASE=a\nDB_PORT=hunter2\n", "DB_PORT"),
            ("DB_PASSWORD=hunter2 x\n", "line 1"),
        ] {
            let config = MysqlConfig { env_file: Some(dir.file(".env", env, 0o600)), ..config() };
            let error = format!("{:#}", dir.login(config).unwrap_err());
            assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        }
    }
}
