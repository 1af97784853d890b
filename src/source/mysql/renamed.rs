//! One database out of a dump, under another name.

use std::io::{self, BufRead, BufReader, Read};

use super::accounts::unquoted;
use crate::source::Purpose;

/// How statements begin that a dump may hold by further arguments of the dump program, and that reach beyond
/// its databases: a dump that is loaded for trial must not, for instance, make a server a replica.
const BEYOND: &[&str] = &[
    "CHANGE ",
    "START ",
    "STOP ",
    "RESET ",
    "FLUSH ",
    "PURGE ",
    "INSTALL ",
    "GRANT ",
    "REVOKE ",
    "SET GLOBAL",
    "SET @@GLOBAL",
    "SET PASSWORD",
    "CREATE USER",
    "CREATE ROLE",
    "ALTER USER",
    "DROP USER",
    "DROP DATABASE",
];

/// One database of a dump, under another name.
///
/// A dump made with `--databases` says `-- Current Database:` before the tables of each of its databases, and
/// again before its views; line ends inside of values are escaped, and bodies of routines stand between
/// `DELIMITER` lines, so such a line is what it seems.
pub(super) struct Renamed<R> {
    dump: BufReader<R>,
    from: String,
    into: String,
    purpose: Purpose,
    line: Vec<u8>,
    given: usize,
    /// Inside of the body of a routine.
    body: bool,
    /// The next line is the first of a body.
    head: bool,
    /// Inside of another database's part.
    other: bool,
    /// Inside of the events.
    events: bool,
    /// Inside of an event that cannot be disabled.
    event: bool,
    /// Whether the database was met.
    pub(super) seen: bool,
    /// How many tables of it were met.
    pub(super) tables: u64,
}

impl<R: Read> Renamed<R> {
    /// The database `from` as `into`. For trial, events, definers and whatever reaches beyond the database are
    /// left out; for a proof, events are disabled, and what reaches beyond is left out.
    pub(super) fn new(dump: R, from: &str, into: &str, purpose: Purpose) -> Self {
        Self {
            dump: BufReader::with_capacity(256 << 10, dump),
            from: super::load::name(from),
            into: super::load::name(into),
            purpose,
            line: Vec::new(),
            given: 0,
            body: false,
            head: false,
            other: false,
            events: false,
            event: false,
            seen: false,
            tables: 0,
        }
    }

    /// Makes of the line what is to be loaded; nothing for one that is left out.
    fn translate(&mut self) -> io::Result<()> {
        let line = &self.line;
        if line.starts_with(b"DELIMITER ") {
            self.body = line.trim_ascii_end() != b"DELIMITER ;";
            self.head = self.body;
        } else if self.body {
            if std::mem::take(&mut self.head) && self.purpose == Purpose::Trial {
                without_definer(&mut self.line);
            }
            if self.events && self.purpose == Purpose::Proof {
                self.disable();
            }
        } else if let Some(name) = line.strip_prefix(b"-- Current Database: ") {
            self.other = name.trim_ascii_end() != self.from.as_bytes();
            self.events = false;
            self.seen |= !self.other;
        } else if self.other {
        } else if begins(line, "CREATE DATABASE ") || begins(line, "USE ") {
            let from = self.from.as_bytes();
            let Some(at) = line.windows(from.len()).position(|part| part == from) else {
                // Going on would fill another database.
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the dump names another database than {} where that one's data begin: {}",
                        self.from,
                        String::from_utf8_lossy(line).trim_end()
                    ),
                ));
            };
            self.line.splice(at..at + from.len(), self.into.bytes());
            // One that came to be meanwhile is somebody's.
            const UNLESS: &[u8] = b"/*!32312 IF NOT EXISTS*/ ";
            let at = b"CREATE DATABASE ".len();
            if self.line.get(at..).is_some_and(|rest| rest.starts_with(UNLESS)) {
                self.line.drain(at..at + UNLESS.len());
            }
        } else if line.starts_with(b"/*!40000 DROP DATABASE ") {
            self.line.clear(); // whether one may be dropped is not for the dump to say
        } else {
            self.tables += u64::from(line.starts_with(b"CREATE TABLE "));
            if self.purpose != Purpose::Use {
                self.for_trial();
            }
        }
        if self.other || self.events && self.purpose == Purpose::Trial {
            self.line.clear();
        }
        Ok(())
    }

    /// A line outside of bodies, and of the database that is meant or before the first one.
    fn for_trial(&mut self) {
        let line = &self.line;
        if line.starts_with(b"-- Dumping events for database") {
            self.events = true; // they would begin to act
        } else if line.starts_with(b"-- Dumping routines for database")
            || line.starts_with(b"-- Dump completed")
        {
            self.events = false;
        } else if line.starts_with(b"/*!") {
            if self.purpose == Purpose::Trial {
                without_definer(&mut self.line);
            }
        } else if !self.seen && !line.starts_with(b"/*") && !line.starts_with(b"--")
            || BEYOND.iter().any(|beyond| begins(line, beyond))
        {
            self.line.clear();
        }
    }
}

impl<R> Renamed<R> {
    /// A line of an event's body: the event is made disabled, or not at all where its words are not known.
    fn disable(&mut self) {
        if self.event {
            self.event = !self.line.trim_ascii_end().ends_with(b";;");
            self.line.clear();
        } else if self.line.starts_with(b"/*!50106 CREATE*/") || begins(&self.line, "CREATE ") {
            let words: [&[u8]; 3] = [b" PRESERVE ENABLE ", b" PRESERVE DISABLE ", b" DO "];
            let at = unquoted(&self.line, 0, &words);
            match at.map(|at| (at, &self.line[at..])) {
                Some((at, rest)) if rest.starts_with(words[0]) => {
                    let at = at + b" PRESERVE ".len();
                    self.line.splice(at..at + b"ENABLE".len(), *b"DISABLE");
                }
                Some((_, rest)) if rest.starts_with(words[1]) => {}
                _ => {
                    self.event = !self.line.trim_ascii_end().ends_with(b";;");
                    self.line.clear();
                }
            }
        }
    }
}

fn begins(line: &[u8], text: &str) -> bool {
    line.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()))
}

/// Takes ``DEFINER=`root`@`localhost` `` out of a line: whoever creates something is its definer then. Only
/// the first is one, and only at the beginning of a statement.
fn without_definer(line: &mut Vec<u8>) {
    const WORD: &[u8] = b"DEFINER=";
    let heads: [&[u8]; 3] =
        [b"CREATE DEFINER=", b"/*!50003 CREATE*/ /*!50017 DEFINER=", b"/*!50013 DEFINER="];
    let Some(head) = heads.iter().find(|head| line.starts_with(head)) else { return };
    let start = head.len() - WORD.len();
    let Some(mut end) = quoted(line, head.len()) else { return };
    if line.get(end) == Some(&b'@') {
        let Some(host) = quoted(line, end + 1) else { return };
        end = host;
    }
    line.drain(start..end);
}

/// The end of the quoted name that begins at `at`.
fn quoted(line: &[u8], at: usize) -> Option<usize> {
    let quote = *line.get(at).filter(|c| matches!(c, b'`' | b'"' | b'\''))?;
    let mut end = at + 1;
    loop {
        end += line.get(end..)?.iter().position(|c| *c == quote)? + 1;
        // Doubled, it is a part of the name.
        if line.get(end) != Some(&quote) {
            return Some(end);
        }
        end += 1;
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
            self.translate()?;
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

    const DUMP: &str = "/*M!999999\\- enable the sandbox mode */\n-- MariaDB dump\n/*!40101 SET NAMES utf8mb4 */;\nCHANGE MASTER TO MASTER_LOG_FILE='x';\n\n\
        -- Current Database: `shop`\n\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;\n\n\
        USE `shop`;\nCREATE TABLE `t` (\n  `a` text\n);\nINSERT INTO `t` VALUES ('USE `shop`;\\n-- Current Database: `other`');\n\
        DELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`ro``ot`@`localhost`*/ /*!50003 TRIGGER x BEFORE INSERT ON t FOR EACH ROW BEGIN\nSET @a = 'DEFINER=`root`@`localhost`';\nEND */;;\nDELIMITER ;\n\
        --\n-- Dumping events for database 'shop'\n--\nDELIMITER ;;\n/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`localhost`*/ /*!50106 EVENT `nightly` DO DELETE FROM live.t */ ;;\nDELIMITER ;\n\
        --\n-- Dumping routines for database 'shop'\n--\n\
        DELIMITER ;;\nCREATE DEFINER=`root`@`localhost` PROCEDURE p() BEGIN\n-- Current Database: `other`\nSELECT 1; END ;;\nDELIMITER ;\n\
        -- Current Database: `other`\n\nCREATE DATABASE `other`;\n\nUSE `other`;\nCREATE TABLE `secret` (\nINSERT INTO `secret` VALUES (1);\n\
        -- Current Database: `shop`\n\nUSE `shop`;\n/*!50013 DEFINER=\"app\" SQL SECURITY DEFINER */\n/*!50001 VIEW `v` AS select 1 */;\nSTART SLAVE;\n\
        -- Current Database: `other`\n\nUSE `other`;\n-- Dump completed\n";

    fn translated(dump: &str, from: &str, purpose: Purpose) -> (String, bool, u64) {
        let mut renamed = Renamed::new(dump.as_bytes(), from, "test`shop", purpose);
        let mut text = String::new();
        renamed.read_to_string(&mut text).unwrap();
        (text, renamed.seen, renamed.tables)
    }

    #[test]
    fn one_database_of_a_dump_is_taken_under_another_name() {
        for purpose in [Purpose::Use, Purpose::Proof, Purpose::Trial] {
            let (text, seen, tables) = translated(DUMP, "shop", purpose);
            assert_eq!((seen, tables), (true, 1));
            assert!(text.contains("CREATE DATABASE `test``shop` /*!40100"), "{text}");
            assert_eq!(text.matches("USE `test``shop`;").count(), 2, "{text}");
            assert!(text.contains("'USE `shop`;\\n-- Current Database: `other`'"), "{text}");
            assert!(text.contains("SELECT 1; END ;;") && text.contains("VIEW `v`"), "{text}");
            assert!(!text.contains("secret") && !text.contains("USE `other`"), "{text}");
            assert!(text.contains("enable the sandbox mode") && text.contains("SET NAMES"), "{text}");
        }
    }

    #[test]
    fn what_is_loaded_for_trial_acts_by_nobody_and_on_nothing_else() {
        let (text, ..) = translated(DUMP, "shop", Purpose::Trial);
        for gone in ["nightly", "CHANGE MASTER", "START SLAVE", "ro``ot", "DEFINER=\"app\"", "CREATE DEFINER"]
        {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        assert!(text.contains("/*!50003 CREATE*/ /*!50017 */ /*!50003 TRIGGER x"), "{text}");
        assert!(text.contains("/*!50013  SQL SECURITY DEFINER */"), "{text}");
        assert!(text.contains("CREATE  PROCEDURE p()"), "{text}");
        assert!(text.contains("SET @a = 'DEFINER=`root`@`localhost`';"), "{text}");
        let (text, ..) = translated(DUMP, "shop", Purpose::Use);
        for there in ["nightly", "START SLAVE", "ro``ot", "CREATE DEFINER=`root`"] {
            assert!(text.contains(there), "{there}: {text}");
        }
    }

    #[test]
    fn a_proof_has_everything_and_nothing_of_it_acts() {
        const EVENTS: &str = "-- Current Database: `shop`\nUSE `shop`;\n-- Dumping events for database 'shop'\n\
            /*!50106 SET @save_time_zone= @@TIME_ZONE */ ;\n/*!50106 DROP EVENT IF EXISTS `a` */;\nDELIMITER ;;\n\
            /*!50106 CREATE*/ /*!50117 DEFINER=`root`@`localhost`*/ /*!50106 EVENT `a PRESERVE ENABLE ` ON SCHEDULE EVERY '1:30' HOUR_MINUTE ON COMPLETION NOT PRESERVE ENABLE COMMENT 'DO it''s' DO BEGIN\n\
            DELETE FROM `t`; END */ ;;\nDELIMITER ;\nDELIMITER ;;\n\
            /*!50106 CREATE*/ /*!50106 EVENT `b` ON SCHEDULE EVERY 1 DAY ON COMPLETION PRESERVE DISABLE ON SLAVE DO SELECT ' PRESERVE ENABLE ' */ ;;\n\
            /*!50106 CREATE*/ /*!50106 EVENT `unknown` ON SCHEDULE EVERY 1 DAY DO BEGIN\nDELETE FROM gone;\nEND */ ;;\n\
            /*!50003 SET time_zone = @saved_time_zone */ ;;\nDELIMITER ;\n-- Dump completed\n";
        let (text, ..) = translated(EVENTS, "shop", Purpose::Proof);
        assert!(text.contains("`a PRESERVE ENABLE ` ON SCHEDULE EVERY '1:30' HOUR_MINUTE ON COMPLETION NOT PRESERVE DISABLE COMMENT"), "{text}");
        assert!(
            text.contains("DISABLE ON SLAVE DO SELECT ' PRESERVE ENABLE '")
                && text.contains("END */ ;;\nDELIMITER ;\n"),
            "{text}"
        );
        assert!(
            !text.contains("unknown") && !text.contains("gone") && text.contains("SET time_zone ="),
            "{text}"
        );
        let (text, ..) = translated(DUMP, "shop", Purpose::Proof);
        for gone in ["nightly", "CHANGE MASTER", "START SLAVE"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        for there in ["ro``ot", "DEFINER=\"app\"", "CREATE DEFINER=`root`"] {
            assert!(text.contains(there), "{there}: {text}");
        }
    }

    #[test]
    fn a_database_that_a_dump_does_not_have_is_noticed() {
        assert!(!translated(DUMP, "sho", Purpose::Trial).1);
    }

    #[test]
    fn a_dump_that_turns_to_another_database_is_not_followed() {
        for line in ["USE `live`;", "use live;", "CREATE DATABASE `live`;"] {
            let dump = format!("-- Current Database: `shop`\nUSE `shop`;\n{line}\nDROP TABLE `t`;\n");
            let mut renamed = Renamed::new(dump.as_bytes(), "shop", "scratch", Purpose::Use);
            let mut text = String::new();
            let error = renamed.read_to_string(&mut text).unwrap_err().to_string();
            assert!(
                error.contains("another database than `shop`") && !text.contains("DROP"),
                "{error}: {text}"
            );
        }
    }
}
