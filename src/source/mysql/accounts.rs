//! Accounts and grants as SQL.
//!
//! Tables of the schema `mysql` differ between versions; `CREATE USER` and `GRANT` do not. Accounts that
//! exist already where they are restored keep their password: else a restore could lock out whoever makes it.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;

use anyhow::ensure;

use super::END_MARKER;
use super::check::{self, base};
use super::login::Login;
use crate::process::{self, Cancel, Command};
use crate::source::StreamSource;

/// Accounts a server makes for itself.
const OWN_ACCOUNTS: &[&str] = &["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"];

/// MariaDB's dump program writes accounts, roles and grants itself.
pub(super) fn dump(program: &Path, login: &Login) -> Command {
    base(&program.to_string_lossy(), login).args([
        "--system=users",
        "--insert-ignore",
        "--comments",
        "--default-character-set=utf8mb4",
    ])
}

/// Oracle's does not: there the server is asked for each account.
pub(super) fn read(login: &Login, cancel: &Cancel) -> anyhow::Result<TextStream> {
    let client = check::client()?;
    let ask = |sql: &str| {
        let command = base(client, login).args([
            "--batch",
            "--raw",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
            &format!("--execute={sql}"),
        ]);
        process::output(command, cancel).map(|output| output.text()).map_err(|e| check::explain(e, login))
    };
    let own: Vec<String> = OWN_ACCOUNTS.iter().map(check::literal).collect();
    let accounts = ask(&format!(
        "SELECT CONCAT(QUOTE(User), '@', QUOTE(Host)) FROM mysql.user WHERE User NOT IN ({}) ORDER BY User, Host",
        own.join(",")
    ))?;
    // Password digests have bytes that no text can carry; versions that know it write them as hex.
    let hex = "/*!80017 SET SESSION print_identified_with_as_hex = ON */;";
    let mut text = "-- Accounts and grants\n".to_owned();
    for account in accounts.lines() {
        for statement in ask(&format!("{hex} SHOW CREATE USER {account}"))?.lines() {
            let rest = statement.strip_prefix("CREATE USER ").unwrap_or(statement);
            let _ = writeln!(text, "CREATE USER IF NOT EXISTS {rest};");
        }
    }
    // After all accounts: a grant may name another one.
    for account in accounts.lines() {
        for statement in ask(&format!("SHOW GRANTS FOR {account}"))?.lines() {
            let _ = writeln!(text, "{statement};");
        }
    }
    ensure!(!accounts.is_empty(), "the database server at {} names no accounts", login.place);
    let _ = writeln!(text, "{END_MARKER}");
    Ok(TextStream(Cursor::new(text.into_bytes())))
}

/// A text made by this program.
pub(super) struct TextStream(Cursor<Vec<u8>>);

impl StreamSource for TextStream {
    fn reader(&mut self) -> &mut (dyn std::io::Read + Send) {
        &mut self.0
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}
