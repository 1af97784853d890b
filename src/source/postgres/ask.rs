//! What the preflight asks a PostgreSQL server, and what its programs' complaints mean.

use anyhow::{Context as _, bail, ensure};

use super::PostgresSource;
use super::login::{Login, Words};
use crate::process::{self, Cancel, ProcessError};

/// What a server said about itself.
#[derive(Debug)]
pub(super) struct Server {
    /// The version as it was told: `15.13 (Debian 15.13-0+deb12u1)`.
    version: String,
    /// Databases that allow connections and are no templates.
    pub(super) databases: Vec<String>,
}

/// Names may hold line ends, so they are asked for with NUL bytes after each.
pub(super) fn server(source: &PostgresSource, login: &Login, cancel: &Cancel) -> anyhow::Result<Server> {
    let command = source
        .command("psql", login)?
        .args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--record-separator-zero"])
        .args(["--set=ON_ERROR_STOP=1"])
        .arg(format!("--dbname=dbname={}", super::login::quote(&source.config.maintenance_db)))
        .arg(
            "--command=SELECT 'version:' || current_setting('server_version') UNION ALL \
             SELECT 'database:' || datname FROM pg_database WHERE datallowconn AND NOT datistemplate",
        );
    let output = process::output(command, cancel).map_err(|error| explain(error, &login.words))?;
    let text = output.text();
    let answers = |kind: &'static str| text.split('\0').filter_map(move |line| line.strip_prefix(kind));
    let version = answers("version:").find(|version| release(version).is_some()).map(str::to_owned);
    let mut databases: Vec<String> = answers("database:").map(str::to_owned).collect();
    databases.sort();
    Ok(Server {
        version: version.with_context(|| {
            format!("the server at {} did not answer as a PostgreSQL server does", login.words.place)
        })?,
        databases,
    })
}

/// Refuses programs that are older than the server: `pg_dump` would refuse it too, but in the middle of the
/// night. And a `pg_restore` that cannot read what `pg_dump` writes.
pub(super) fn compare(
    source: &PostgresSource,
    server: &Server,
    login: &Login,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let mut dump = None;
    for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
        let command = source.command(name, login)?.arg("--version");
        let text = process::output(command, cancel)
            .with_context(|| format!("asking {name} for its version"))?
            .text();
        let version = text.trim().split_once(") ").map_or(text.trim(), |(_, version)| version).to_owned();
        let number = release(&version)
            .with_context(|| format!("{name} does not tell its version: {:?}", text.trim()))?;
        if Some(number) < release(&server.version) {
            bail!(
                "{name} ({version}) is older than the server ({}): install the client of the server's version, \
                 or name its folder in bin_dir",
                server.version
            );
        }
        match &dump {
            None => dump = Some((number, version)),
            Some((dumps, dump)) => ensure!(
                number >= *dumps,
                "{name} ({version}) is older than pg_dump ({dump}) and cannot read what that writes: name one folder for all in bin_dir"
            ),
        }
    }
    Ok(())
}

/// The number that decides which program may dump which server: the major version, or before 10 both.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major: u32 = numbers.next()?.ok()?;
    let minor = numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((major, if major < 10 { minor } else { 0 }))
}

/// What is wrong, by what programs write to standard error (in English: they run with LC_ALL=C.UTF-8).
/// `{user}` and `{place}` are those of the login, `{what}` is what was done.
const REASONS: &[(&[&str], &str)] = &[
    (
        &[
            "password authentication failed",
            "Peer authentication failed",
            "no password supplied",
            "Ident authentication failed",
        ],
        "the PostgreSQL server at {place} refused the login of {user}: check user and password, or run_as for peer authentication",
    ),
    (
        &["no pg_hba.conf entry"],
        "the PostgreSQL server at {place} has no entry in its pg_hba.conf that lets {user} in",
    ),
    (
        &[
            "Connection refused",
            "No such file or directory",
            "could not translate host name",
            "timeout expired",
            "No route to host",
        ],
        "no PostgreSQL server answers at {place}: is it running, and is that its address?",
    ),
    (&["role \"", "permission denied"], "{user} lacks a privilege at {place} that {what} needs"),
    (
        &["too many clients", "remaining connection slots"],
        "the PostgreSQL server at {place} takes no further connection of {user}",
    ),
    (
        &["terminating connection", "server closed the connection"],
        "the connection to the PostgreSQL server at {place} broke off",
    ),
    (&["server version mismatch"], "the dump program is older than the PostgreSQL server at {place}"),
];

/// Puts a sentence before what a program said, where the reason is a known one.
pub(super) fn explain(error: ProcessError, words: &Words) -> anyhow::Error {
    explain_doing(error, words, "a dump")
}

/// The same of something else than a dump.
pub(super) fn explain_doing(error: ProcessError, words: &Words, what: &str) -> anyhow::Error {
    let said = |text: &&str| error.stderr().is_some_and(|tail| tail.contains(text));
    let reason = REASONS
        .iter()
        .find(|(texts, _)| texts.iter().any(said))
        .map_or("talking to the PostgreSQL server at {place} as {user}", |(_, reason)| reason);
    let sentence =
        reason.replace("{user}", &words.user).replace("{place}", &words.place).replace("{what}", what);
    anyhow::Error::new(error).context(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_what_decides() {
        assert_eq!(release("15.13 (Debian 15.13-0+deb12u1)"), Some((15, 0)));
        assert_eq!(release("9.6.24"), Some((9, 6)));
        assert_eq!(release("17rc1"), Some((17, 0)));
        assert_eq!(release("hello"), None);
        assert!(release("14.9") < release("15.1"));
    }
}
