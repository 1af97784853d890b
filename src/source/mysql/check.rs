//! What the preflight asks a server.

use std::io;

use anyhow::{Context as _, anyhow, ensure};

use super::login::Login;
use super::version::{self, Version};
use super::{CHECK_TIMEOUT, HINT, MysqlSource};
use crate::process::{self, Cancel, Command, ProcessError};
use crate::source::parts::Choice;

/// Client programs, the preferred one first.
pub(super) const CLIENTS: [&str; 2] = ["mariadb", "mysql"];
/// How many tables a warning names.
const SHOWN_TABLES: usize = 5;
/// Schemas that hold no data of their own, or, like `mysql`, are the server's.
pub(super) const SYSTEM_SCHEMAS: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];

/// What the preflight found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The databases that will be dumped, as far as they are known.
    pub(super) databases: Vec<String>,
    /// Sentences for a person.
    pub(super) warnings: Vec<String>,
}

/// What a server said about itself.
#[derive(Debug, Default)]
struct Answers {
    version: String,
    /// Database names are compared without regard to case.
    folds_case: bool,
    databases: Vec<String>,
    /// Tables that a transaction does not protect, with their engine: `shop.log (MyISAM)`.
    plain_tables: Vec<String>,
}

/// The client program.
pub(super) fn client() -> anyhow::Result<&'static str> {
    CLIENTS
        .into_iter()
        .find(|name| process::find_program(name).is_some())
        .with_context(|| format!("the program {} is not installed: {HINT}", CLIENTS.join(" or ")))
}

/// Logs in, chooses the databases and checks that everything named is there.
pub(super) fn check(
    source: &MysqlSource,
    login: &Login,
    choice: &Choice,
    dump: &Version,
    cancel: &Cancel,
) -> anyhow::Result<Found> {
    let client = match client() {
        Ok(client) => client,
        Err(error) if source.config.split || source.config.users => return Err(error),
        Err(error) if choice.is_open() && !choice.is_everything() => return Err(error),
        Err(_) => {
            try_dump(source, login, choice, cancel)?;
            let warning = format!(
                "the program {} is not installed, so neither the version of the server nor the types of its tables were checked",
                CLIENTS.join(" or ")
            );
            return Ok(Found { databases: choice.names().to_vec(), warnings: vec![warning] });
        }
    };
    let answers = ask(client, login, source.config.users, cancel)?;
    ensure!(
        !answers.version.is_empty(),
        "the server at {} did not answer as a MySQL server does",
        login.place
    );
    let mut warnings = Vec::new();
    if let Some(server) = Version::of_server(&answers.version) {
        warnings.extend(version::compare(dump, &server).map_err(|sentence| anyhow!(sentence))?);
    } else {
        warnings.push(format!(
            "the server at {} has a version that is not understood: {:?}",
            login.place, answers.version
        ));
    }
    let is_system = |name: &str| SYSTEM_SCHEMAS.iter().any(|schema| schema.eq_ignore_ascii_case(name));
    let databases = if choice.is_everything() && !source.config.split {
        answers.databases.into_iter().filter(|name| !is_system(name)).collect()
    } else {
        let chosen =
            choice.among(&answers.databases, answers.folds_case, is_system, &login.place, &login.user)?;
        warnings.extend(chosen.warnings);
        chosen.databases
    };
    let plain = plain_tables(client, login, &databases, cancel)?;
    if !plain.is_empty() {
        warnings.push(format!(
            "{} of the tables know no transactions, so a dump cannot promise one moment's state of them: {}{}",
            plain.len(),
            plain[..plain.len().min(SHOWN_TABLES)].join(", "),
            if plain.len() > SHOWN_TABLES { ", …" } else { "" },
        ));
    }
    Ok(Found { databases, warnings })
}

fn run(client: &str, login: &Login, sql: &str, cancel: &Cancel) -> anyhow::Result<Answers> {
    let command = base(client, login).args([
        "--batch",
        "--skip-column-names",
        "--connect-timeout=10",
        "--default-character-set=utf8mb4",
        &format!("--execute={sql}"),
    ]);
    let output = process::output(command, cancel).map_err(|error| explain(error, login))?;
    Ok(understand(&output.text()))
}

fn ask(client: &str, login: &Login, users: bool, cancel: &Cancel) -> anyhow::Result<Answers> {
    // Whoever may not read the accounts is to be told now, and not in the middle of the night's dump.
    let users = if users { "SELECT 'users', COUNT(*) FROM mysql.user;" } else { "" };
    let sql = format!(
        "SELECT 'version', VERSION();
         SELECT 'case', @@lower_case_table_names;
         {users}
         SELECT 'database', SCHEMA_NAME FROM information_schema.SCHEMATA"
    );
    run(client, login, &sql, cancel)
}

/// Tables of `databases` that a transaction does not protect.
fn plain_tables(
    client: &str,
    login: &Login,
    databases: &[String],
    cancel: &Cancel,
) -> anyhow::Result<Vec<String>> {
    let mut tables = Vec::new();
    // A list for thousands of databases would not fit into one argument.
    for databases in databases.chunks(500) {
        tables.extend(run(client, login, &plain_question(databases), cancel)?.plain_tables);
    }
    Ok(tables)
}

fn plain_question(databases: &[String]) -> String {
    let list: Vec<String> = databases.iter().map(literal).collect();
    format!(
        "SELECT 'table', TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES
          WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA IN ({})
            AND ENGINE NOT IN (SELECT ENGINE FROM information_schema.ENGINES WHERE TRANSACTIONS = 'YES')
          ORDER BY TABLE_SCHEMA, TABLE_NAME LIMIT 1000",
        list.join(",")
    )
}

/// Logs in by dumping structures only; for machines that have a dump program and no client.
fn try_dump(source: &MysqlSource, login: &Login, choice: &Choice, cancel: &Cancel) -> anyhow::Result<()> {
    let databases = (!choice.is_everything()).then(|| choice.names());
    let command = source.dump_command(login, None, databases)?.arg("--no-data").timeout(CHECK_TIMEOUT);
    let mut child = process::stream(command, cancel.clone())?;
    // What went wrong is told by `finish`, better than by the read.
    let _ = io::copy(&mut child, &mut io::sink());
    child.finish().map_err(|error| explain(error, login)).map(drop)
}

/// A client program that logs in, with nothing else to do yet.
pub(super) fn base(program: &str, login: &Login) -> Command {
    let mut command = Command::new(program).args(login.args.iter().cloned()).timeout(CHECK_TIMEOUT);
    if let Some(password) = &login.password {
        command = command.hide(password.clone());
    }
    command
}

pub(super) fn literal(text: impl AsRef<str>) -> String {
    format!("'{}'", text.as_ref().replace('\\', "\\\\").replace('\'', "''"))
}

fn understand(text: &str) -> Answers {
    let mut answers = Answers::default();
    for line in text.lines() {
        match line.split('\t').collect::<Vec<_>>().as_slice() {
            ["version", version] => answers.version = (*version).to_owned(),
            ["case", value] => answers.folds_case = *value != "0",
            ["database", name] => answers.databases.push((*name).to_owned()),
            ["table", schema, table, engine] => {
                answers.plain_tables.push(format!("{schema}.{table} ({engine})"))
            }
            _ => {}
        }
    }
    answers
}

/// What is wrong, by the error codes of server and client library; `{user}`, `{place}` and `{origin}` are
/// those of the login, `{what}` is what was done.
const REASONS: &[(&[u32], &str)] = &[
    (
        &[1045, 1698],
        "the database server at {place} refused the login of {user}: check user and password in {origin}",
    ),
    (&[2002, 2003, 2005], "no database server answers at {place}: is it running, and is that its address?"),
    (&[1049], "a database that is asked for does not exist at {place}"),
    (&[1044, 1142, 1143, 1227, 1370], "{user} lacks a privilege at {place} that {what} needs"),
    (&[1040, 1203, 1226], "the database server at {place} takes no further connection of {user}"),
    (&[2006, 2013], "the connection to the database server at {place} broke off"),
];

/// Puts a sentence before what a client program said, where the reason is a known one.
pub(super) fn explain(error: ProcessError, login: &Login) -> anyhow::Error {
    explain_doing(error, login, "a dump")
}

/// The same of something else than a dump.
pub(super) fn explain_doing(error: ProcessError, login: &Login, what: &str) -> anyhow::Error {
    let codes: Vec<u32> =
        error.stderr().into_iter().flat_map(|tail| tail.lines.iter().flat_map(|line| codes(line))).collect();
    let reason = REASONS
        .iter()
        .find(|(known, _)| known.iter().any(|code| codes.contains(code)))
        .map_or("talking to the database server at {place} as {user}", |(_, reason)| reason);
    let sentence = reason
        .replace("{user}", &login.user)
        .replace("{what}", what)
        .replace("{place}", &login.place)
        .replace("{origin}", &login.origin);
    anyhow::Error::new(error).context(sentence)
}

/// The error codes in a line: `ERROR 1045 (28000)`, `Got error: 2002: …`, `Lost connection (2013)`.
pub(super) fn codes(line: &str) -> Vec<u32> {
    let lower = line.to_ascii_lowercase();
    let mut found = Vec::new();
    for (before, after) in [("error ", [' ', ':']), ("error: ", [' ', ':']), ("(", [')', ')'])] {
        for (at, _) in lower.match_indices(before) {
            let rest = &lower[at + before.len()..];
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if digits == 4 && rest[digits..].starts_with(after) {
                found.extend(rest[..digits].parse::<u32>());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_their_first_column() {
        let answers = understand(
            "version\t10.11.19-MariaDB\ncase\t0\ndatabase\tshop\ndatabase\tmysql\ntable\tshop\tlog\tMyISAM\nnoise\n",
        );
        assert_eq!(answers.version, "10.11.19-MariaDB");
        assert!(!answers.folds_case);
        assert_eq!(answers.databases, ["shop", "mysql"]);
        assert_eq!(answers.plain_tables, ["shop.log (MyISAM)"]);
    }

    #[test]
    fn error_codes_are_found_as_client_and_dump_write_them() {
        for (line, code) in [
            ("ERROR 1045 (28000): Access denied for user 'a'@'b' (using password: YES)", 1045),
            ("ERROR 2002 (HY000): Can't connect to server on '127.0.0.1' (115)", 2002),
            ("mariadb-dump: Got error: 2002: \"Can't connect to local server\" when trying to connect", 2002),
            (
                "mysqldump: Error 2013: Lost connection to server during query when dumping table `t` at row: 7",
                2013,
            ),
            (
                "mysqldump: Couldn't execute 'SHOW EVENTS': Access denied for user 'a'@'b' to database 'c' (1044)",
                1044,
            ),
        ] {
            assert_eq!(codes(line), [code], "{line}");
        }
        assert!(codes("no error at all in row 1045 (10459)").is_empty());
    }

    #[test]
    fn database_names_are_quoted_in_the_questions() {
        assert_eq!(literal("a'b\\c"), "'a''b\\\\c'");
        assert!(plain_question(&["sh'op".to_owned()]).contains("TABLE_SCHEMA IN ('sh''op')"));
    }
}
