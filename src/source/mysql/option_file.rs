//! What an option file of the client says, for messages.

use std::io::Read as _;
use std::path::Path;

/// More than any option file.
const MAX_FILE: u64 = 1 << 20;

/// What an option file says in its own lines of who logs in and where, for messages; the client alone knows what
/// else counts.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) user: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) socket: Option<String>,
}

impl Named {
    pub(super) fn read(path: &Path) -> Self {
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
        if read.is_ok() { Self::of(&text) } else { Self::default() }
    }

    fn of(text: &str) -> Self {
        let mut named = Self::default();
        let mut counts = false;
        for line in text.lines().map(str::trim) {
            if let Some(group) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                counts = ["client", "client-mariadb", "mysql", "mariadb", "mariadb-client"].contains(&group);
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| counts && !line.starts_with(['#', ';']))
            else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            match key.trim() {
                "user" => named.user = Some(value),
                "host" => named.host = Some(value),
                "port" => named.port = value.parse().ok(),
                "socket" => named.socket = Some(value),
                _ => {}
            }
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_who_logs_in_and_where_as_the_option_file_does() {
        let named = Named::of(
            "[mysqld]\nuser = mysql\nport=1\n[client]\n# user = x\nuser = 'shop'\nhost=127.0.0.1\nport = 3310\npassword = \"p\"\n",
        );
        assert_eq!((named.user.as_deref(), named.host.as_deref()), (Some("shop"), Some("127.0.0.1")));
        assert_eq!((named.port, named.socket), (Some(3310), None));
    }
}
