//! Dumps back into a MySQL or MariaDB server, under another name where that is wanted.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context as _, bail, ensure};

use super::login::Login;
use super::{MysqlSource, check};
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process::{self, Command};
use crate::source::Context;
use crate::source::database::{Database, Load, feed};

/// Names the short-lived login file of questions.
const ASKING: &str = "question";

impl MysqlSource {
    fn client(&self, login: &Login) -> anyhow::Result<Command> {
        let client =
            check::CLIENTS.iter().find(|name| process::find_program(**name).is_some()).with_context(
                || format!("no client ({}) is installed: {}", check::CLIENTS.join(" or "), super::HINT),
            )?;
        Ok(check::base(client, login).args(["--batch", "--default-character-set=utf8mb4"]))
    }

    fn statement(
        &self,
        login: &Login,
        database: Option<&str>,
        sql: &str,
        context: &Context,
    ) -> anyhow::Result<String> {
        let mut command = self
            .client(login)?
            .args(["--skip-column-names", "--connect-timeout=10"])
            .arg(format!("--execute={sql}"));
        if let Some(database) = database {
            command = command.arg(format!("--database={database}"));
        }
        let output = process::output(command, &context.cancel()).map_err(|e| check::explain(e, login))?;
        Ok(output.text().trim_end_matches('\n').to_owned())
    }

    fn login(&self, name: &ComponentName, context: &Context) -> anyhow::Result<Login> {
        Login::new(name, &self.config, &context.scratch)
    }

    fn asking(&self, context: &Context) -> anyhow::Result<Login> {
        self.login(&ComponentName::new(ASKING)?, context)
    }
}

impl Database for MysqlSource {
    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()> {
        if load.content == Content::MysqlUsers {
            bail!(
                "accounts and grants belong to no database: RESTORE.txt of the backup says how to load them"
            );
        }
        let into = load.into;
        ensure!(!is_system(into), "{into} is a database of the server itself: choose another name");
        ensure!(
            !into.is_empty() && !into.contains(['\0', '\n']),
            "{into:?} cannot be the name of a database"
        );
        let login = self.login(load.component, context)?;
        let found = format!(
            "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
            check::literal(into)
        );
        if self.statement(&login, None, &found, context)? != "0" {
            ensure!(
                load.replace,
                "there is a database {into} at {} already; choose another name, or replace it with --force",
                login.place
            );
            self.statement(&login, None, &format!("DROP DATABASE {}", name(into)), context)?;
        }
        let command = self
            .client(&login)?
            // Nothing in a dump may be taken for a command of the client.
            .args(["--binary-mode", "--max-allowed-packet=1G"])
            .timeout(self.config.timeout);
        let mut renamed = Renamed::new(dump, load.from, into);
        let filled = match feed(command, &mut renamed, context) {
            Err(error) => Err(check::explain(error, &login)),
            Ok(Err(error)) => Err(error).context("reading the dump"),
            Ok(Ok(_)) => Ok(()),
        };
        let filled = filled.and_then(|()| {
            ensure!(renamed.seen, "the dump has no database {}", load.from);
            Ok(())
        });
        filled.map_err(|error| match self.remove(into, context) {
            Ok(()) => error.context(format!("loading {into}: what was loaded of it is removed again")),
            Err(left) => {
                error.context(format!("loading {into}: what was loaded of it is left there ({left:#})"))
            }
        })
    }

    fn remove(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        ensure!(!is_system(database), "{database} is a database of the server itself");
        let login = self.asking(context)?;
        let sql = format!("DROP DATABASE IF EXISTS {}", name(database));
        self.statement(&login, None, &sql, context).map(drop)
    }

    fn query(&self, database: &str, sql: &str, context: &Context) -> anyhow::Result<String> {
        self.statement(&self.asking(context)?, Some(database), sql, context)
    }
}

fn is_system(name: &str) -> bool {
    check::SYSTEM_SCHEMAS.iter().any(|schema| schema.eq_ignore_ascii_case(name))
}

/// A name in a statement.
fn name(database: &str) -> String {
    format!("`{}`", database.replace('`', "``"))
}

/// One database of a dump, under another name.
///
/// A dump made with `--databases` says `-- Current Database:` before the tables of each of its databases, and
/// again before its views; line ends inside of values are escaped, and bodies of routines stand between
/// `DELIMITER` lines, so such a line is what it seems.
struct Renamed<R> {
    dump: BufReader<R>,
    from: String,
    into: String,
    line: Vec<u8>,
    given: usize,
    /// Inside of the body of a routine.
    body: bool,
    /// Inside of another database's part.
    other: bool,
    /// Whether the database was met.
    seen: bool,
}

impl<R: Read> Renamed<R> {
    fn new(dump: R, from: &str, into: &str) -> Self {
        Self {
            dump: BufReader::with_capacity(256 << 10, dump),
            from: name(from),
            into: name(into),
            line: Vec::new(),
            given: 0,
            body: false,
            other: false,
            seen: false,
        }
    }

    /// Makes of the line what is to be loaded; nothing for one that is left out.
    fn translate(&mut self) {
        let line = &self.line;
        if line.starts_with(b"DELIMITER ") {
            self.body = line.trim_ascii_end() != b"DELIMITER ;";
        } else if !self.body {
            if let Some(name) = line.strip_prefix(b"-- Current Database: ") {
                self.other = name.trim_ascii_end() != self.from.as_bytes();
                self.seen |= !self.other;
            } else if line.starts_with(b"CREATE DATABASE ") || line.starts_with(b"USE `") {
                let from = self.from.as_bytes();
                if let Some(at) = line.windows(from.len()).position(|part| part == from) {
                    self.line.splice(at..at + from.len(), self.into.bytes());
                }
            } else if line.starts_with(b"/*!40000 DROP DATABASE ") {
                self.line.clear(); // whether one may be dropped is not for the dump to say
            }
        }
        if self.other {
            self.line.clear();
        }
    }
}

impl<R: Read> Read for Renamed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.line.len() {
            self.line.clear();
            self.given = 0;
            if self.dump.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(0);
            }
            self.translate();
        }
        let left = &self.line[self.given..];
        let got = left.len().min(out.len());
        out[..got].copy_from_slice(&left[..got]);
        self.given += got;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "-- MariaDB dump\n/*!40101 SET NAMES utf8mb4 */;\n\n\
        -- Current Database: `shop`\n\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;\n\n\
        USE `shop`;\nINSERT INTO `t` VALUES ('USE `shop`;\\n-- Current Database: `other`');\n\
        DELIMITER ;;\nCREATE PROCEDURE p() BEGIN\n-- Current Database: `other`\nSELECT 1; END ;;\nDELIMITER ;\n\
        -- Current Database: `other`\n\nCREATE DATABASE `other`;\n\nUSE `other`;\nINSERT INTO `secret` VALUES (1);\n\
        -- Current Database: `shop`\n\nUSE `shop`;\nCREATE VIEW `v` AS select 1;\n\
        -- Current Database: `other`\n\nUSE `other`;\n-- Dump completed\n";

    fn translated(from: &str) -> (String, bool) {
        let mut renamed = Renamed::new(DUMP.as_bytes(), from, "test`shop");
        let mut text = String::new();
        renamed.read_to_string(&mut text).unwrap();
        (text, renamed.seen)
    }

    #[test]
    fn one_database_of_a_dump_is_taken_under_another_name() {
        let (text, seen) = translated("shop");
        assert!(seen);
        assert!(text.contains("CREATE DATABASE /*!32312 IF NOT EXISTS*/ `test``shop` /*!40100"), "{text}");
        assert_eq!(text.matches("USE `test``shop`;").count(), 2, "{text}");
        assert!(text.contains("'USE `shop`;\\n-- Current Database: `other`'"), "{text}");
        assert!(text.contains("SELECT 1; END ;;") && text.contains("CREATE VIEW"), "{text}");
        assert!(!text.contains("secret") && !text.contains("USE `other`"), "{text}");
    }

    #[test]
    fn a_database_that_a_dump_does_not_have_is_noticed() {
        assert!(!translated("sho").1);
    }
}
