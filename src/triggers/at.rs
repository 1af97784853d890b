//! Jobs of at(1): files whose names say when.

use std::path::Path;

use chrono::DateTime;

use super::when::When;
use super::{Place, Search, Trigger};

const SPOOLS: [&str; 2] = ["/var/spool/cron/atjobs", "/var/spool/at"];

/// Adds every job that would start a backup.
pub(super) fn search(search: &mut Search<'_>) {
    for spool in SPOOLS {
        for name in search.root.names(Path::new(spool)) {
            let Some((number, when)) = name.to_str().and_then(read_name) else { continue };
            let path = Path::new(spool).join(&name);
            let Some(file) = search.text(&path) else { continue };
            let user = file.text.lines().find_map(|line| {
                line.strip_prefix("# atrun uid=")?.split(' ').next().map(|uid| format!("uid {uid}"))
            });
            let user = user.map(|user| if user == "uid 0" { "root".to_owned() } else { user });
            for (line, text, call) in search.script_calls(&file.text) {
                search.found.push(Trigger {
                    place: Place::At { number },
                    file: path.clone(),
                    line,
                    user: user.clone(),
                    text,
                    call,
                    when: when.clone(),
                    ignored: None,
                });
            }
        }
    }
}

/// A letter for the queue, five hexadecimal digits of the job's number, eight of its minute since 1970.
fn read_name(name: &str) -> Option<(u32, When)> {
    if name.len() != 14 || !name.is_ascii() || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let number = u32::from_str_radix(&name[1..6], 16).ok()?;
    let minutes = i64::from_str_radix(&name[6..], 16).ok()?;
    Some((number, When::Once(DateTime::from_timestamp(minutes.checked_mul(60)?, 0)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_number_and_minute() {
        let (number, when) = read_name("b0000101c8a914").unwrap();
        assert_eq!(number, 1);
        assert_eq!(when, When::Once("2026-11-26T03:00:00Z".parse().unwrap()));
        for name in ["", ".SEQ", ".lockfile", "a00001", "a0000101c8a91g", "=0000101c8a914", "ä000101c8a914"]
        {
            assert_eq!(read_name(name), None, "{name}");
        }
    }
}
