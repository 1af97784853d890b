//! Versions of clients and servers, and which clients may dump which servers.

use std::fmt;

/// Who made it: their version numbers have nothing to do with one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    Mariadb,
    Mysql,
}

/// A version as far as it decides anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) flavour: Flavour,
    /// Major and minor number.
    pub(super) number: (u32, u32),
    /// The version as it was told: `10.11.19-MariaDB`.
    pub(super) text: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flavour = match self.flavour {
            Flavour::Mariadb => "MariaDB",
            Flavour::Mysql => "MySQL",
        };
        write!(f, "{flavour} {}", self.text)
    }
}

impl Version {
    /// What `mysqldump --version` prints. The number after `Distrib` or `from` is that of the release;
    /// where neither stands there, the one after `Ver` is.
    pub(super) fn of_client(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let after = |key: &str| words.windows(2).find(|pair| pair[0] == key).map(|pair| pair[1]);
        let text = ["Distrib", "from", "Ver"].into_iter().find_map(after)?;
        Self::new(text, line.contains("MariaDB"))
    }

    /// What `SELECT VERSION()` gives.
    pub(super) fn of_server(text: &str) -> Option<Self> {
        Self::new(text, text.contains("MariaDB"))
    }

    fn new(text: &str, is_mariadb: bool) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let flavour = if is_mariadb { Flavour::Mariadb } else { Flavour::Mysql };
        Some(Self { flavour, number, text: text.to_owned() })
    }
}

/// Whether `client` may dump `server`: an error sentence, or perhaps a warning. An older client may leave
/// out what only the newer server knows, and say nothing.
pub(super) fn compare(client: &Version, server: &Version) -> Result<Option<String>, String> {
    if client.flavour != server.flavour {
        return Ok(Some(format!(
            "the dump program is of {client} and the server is {server}: install the client that belongs to the server"
        )));
    }
    if client.number < server.number {
        return Err(format!(
            "the dump program ({client}) is older than the server ({server}): install a client of at least {}.{}",
            server.number.0, server.number.1
        ));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_clients_print() {
        for (line, flavour, number) in [
            (
                "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)",
                Flavour::Mariadb,
                (10, 11),
            ),
            ("mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux (x86_64)", Flavour::Mariadb, (11, 4)),
            (
                "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)",
                Flavour::Mysql,
                (8, 0),
            ),
            ("mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)", Flavour::Mysql, (5, 7)),
            (
                "/usr/bin/mysqldump  Ver 9.1.0 for Linux on x86_64 (Source distribution)",
                Flavour::Mysql,
                (9, 1),
            ),
        ] {
            let version = Version::of_client(line).unwrap();
            assert_eq!((version.flavour, version.number), (flavour, number), "{line}");
        }
        assert_eq!(Version::of_client("hello"), None);
        assert_eq!(Version::of_server("").map(|v| v.number), None);
    }

    #[test]
    fn an_older_client_is_refused_with_both_versions() {
        let client = |text: &str| Version::of_server(text).unwrap();
        let server = client("10.11.19-MariaDB-0+deb12u1");
        assert_eq!(compare(&client("10.11.2-MariaDB"), &server), Ok(None));
        assert_eq!(compare(&client("11.4.2-MariaDB"), &server), Ok(None));
        let error = compare(&client("10.5.23-MariaDB"), &server).unwrap_err();
        assert!(error.contains("10.5.23-MariaDB") && error.contains("10.11.19-MariaDB"), "{error}");
        assert!(compare(&client("8.0.36"), &server).unwrap().is_some());
        assert!(compare(&client("5.7.44"), &client("8.0.36")).is_err());
    }
}
