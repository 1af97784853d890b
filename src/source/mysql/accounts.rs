//! Accounts and grants as SQL.
//!
//! Tables of the schema `mysql` differ between versions; `CREATE USER` and `GRANT` do not. Accounts that
//! exist already where they are restored keep their password: else a restore could lock out whoever makes it.

use std::fmt::Write as _;
use std::io::{self, Cursor, Read};
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

/// A dump of accounts whose `GRANT` statements give nobody a password: MariaDB writes it into them again, where
/// it would replace that of an account that exists. `CREATE USER IF NOT EXISTS`, which stands before them, keeps it.
pub(super) struct KeepsPasswords {
    inner: Box<dyn StreamSource>,
    /// Read, and no whole line yet.
    begun: Vec<u8>,
    lines: Cursor<Vec<u8>>,
    ended: bool,
}

impl KeepsPasswords {
    pub(super) fn new(inner: Box<dyn StreamSource>) -> Self {
        Self { inner, begun: Vec::new(), lines: Cursor::default(), ended: false }
    }
}

impl Read for KeepsPasswords {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.lines.read(out)?;
            if got > 0 || self.ended || out.is_empty() {
                return Ok(got);
            }
            let mut chunk = [0; 16 << 10];
            let read = self.inner.reader().read(&mut chunk)?;
            self.begun.extend_from_slice(&chunk[..read]);
            self.ended = read == 0;
            let whole = match self.begun.iter().rposition(|c| *c == b'\n') {
                _ if self.ended => self.begun.len(),
                Some(end) => end + 1,
                None => continue,
            };
            let lines: Vec<u8> = self.begun.drain(..whole).collect();
            let lines = lines.split_inclusive(|c| *c == b'\n').flat_map(without_password).collect();
            self.lines = Cursor::new(lines);
        }
    }
}

impl StreamSource for KeepsPasswords {
    fn reader(&mut self) -> &mut (dyn Read + Send) {
        self
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        self.inner.finish()
    }
}

/// A line without `IDENTIFIED …`, if it is a `GRANT`; `REQUIRE …` and `WITH …` behind it stay.
fn without_password(line: &[u8]) -> Vec<u8> {
    let mut kept = line.to_vec();
    if line.starts_with(b"GRANT ")
        && let Some(start) =
            unquoted(line, 0, &[b" IDENTIFIED BY ", b" IDENTIFIED VIA ", b" IDENTIFIED WITH "])
    {
        let after = start + b" IDENTIFIED WITH".len();
        if let Some(end) = unquoted(line, after, &[b" REQUIRE ", b" WITH ", b";"]) {
            kept.drain(start..end);
        }
    }
    kept
}

/// Where the first of `words` begins at `from` or behind it, outside of quotes.
pub(super) fn unquoted(line: &[u8], from: usize, words: &[&[u8]]) -> Option<usize> {
    let (mut at, mut quote) = (0, None);
    while let Some(&c) = line.get(at) {
        match quote {
            // Doubled, it ends and begins again.
            Some(open) if c == open => quote = None,
            Some(open) if c == b'\\' && open != b'`' => at += 1,
            Some(_) => {}
            None if at >= from && words.iter().any(|word| line[at..].starts_with(word)) => return Some(at),
            None if matches!(c, b'`' | b'\'' | b'"') => quote = Some(c),
            None => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> String {
        let inner = Box::new(TextStream(Cursor::new(text.as_bytes().to_vec())));
        let mut out = String::new();
        KeepsPasswords::new(inner).read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn grants_give_nobody_a_password_and_keep_their_conditions() {
        for (grant, left) in [
            (
                "GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*B6';\n",
                "GRANT USAGE ON *.* TO `a`@`%`;\n",
            ),
            (
                "GRANT SELECT ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*B6' REQUIRE SSL WITH GRANT OPTION;",
                "GRANT SELECT ON *.* TO `a`@`%` REQUIRE SSL WITH GRANT OPTION;",
            ),
            (
                "GRANT ALL PRIVILEGES ON *.* TO `r`@`h` IDENTIFIED VIA mysql_native_password USING '*X WITH \\' ;' OR unix_socket WITH GRANT OPTION;\n",
                "GRANT ALL PRIVILEGES ON *.* TO `r`@`h` WITH GRANT OPTION;\n",
            ),
            (
                "GRANT USAGE ON *.* TO 'a'@'%' IDENTIFIED WITH 'mysql_native_password' AS '*B6';\n",
                "GRANT USAGE ON *.* TO 'a'@'%';\n",
            ),
            (
                "GRANT USAGE ON *.* TO `x IDENTIFIED BY ``;`@`h` IDENTIFIED BY PASSWORD '*B6';\n",
                "GRANT USAGE ON *.* TO `x IDENTIFIED BY ``;`@`h`;\n",
            ),
        ] {
            assert_eq!(kept(grant), left);
        }
    }

    #[test]
    fn everything_else_of_the_accounts_stays_as_it_is() {
        let text = "CREATE USER IF NOT EXISTS `a`@`%` IDENTIFIED BY PASSWORD '*B6' REQUIRE SSL;\n\
                    GRANT `r` TO `a`@`%`;\nGRANT PROXY ON ``@`%` TO `root`@`localhost` WITH GRANT OPTION;\n\
                    GRANT SELECT ON `x IDENTIFIED BY y`.* TO `a`@`%`;\n-- Dump completed";
        assert_eq!(kept(text), text);
    }
}
