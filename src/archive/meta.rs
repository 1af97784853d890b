//! What the archive keeps of a file beside its content.

use std::collections::HashMap;
use std::sync::Mutex;

use rustix::fs::Stat;

/// Owner, mode and time of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub mtime_nanos: u32,
}

impl Meta {
    pub fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            mtime_nanos: stat.st_mtime_nsec as u32,
        }
    }
}

/// True when nothing says the file's content moved between the two looks at it.
pub(super) fn unchanged(before: &Stat, after: &Stat) -> bool {
    before.st_size == after.st_size
        && before.st_mtime == after.st_mtime
        && before.st_mtime_nsec == after.st_mtime_nsec
        && before.st_ctime == after.st_ctime
        && before.st_ctime_nsec == after.st_ctime_nsec
}

/// The data extents of a sparse file: where its content stands; the rest is holes.
pub(super) type Extents = Vec<(u64, u64)>;

/// The names of users and groups, looked up once each: the lookup may go over the network.
#[derive(Default)]
pub(super) struct Names {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Names {
    /// The user's name, empty where there is none.
    pub fn user(&self, uid: u32) -> String {
        cached(&self.users, uid, |id| nix::unistd::User::from_uid(id.into()).ok().flatten().map(|u| u.name))
    }

    /// The group's name, empty where there is none.
    pub fn group(&self, gid: u32) -> String {
        cached(&self.groups, gid, |id| nix::unistd::Group::from_gid(id.into()).ok().flatten().map(|g| g.name))
    }
}

fn cached(map: &Mutex<HashMap<u32, String>>, id: u32, look_up: impl Fn(u32) -> Option<String>) -> String {
    let mut map = map.lock().unwrap_or_else(|e| e.into_inner());
    map.entry(id).or_insert_with(|| look_up(id).unwrap_or_default()).clone()
}

/// The version word at the start of a POSIX ACL attribute.
const ACL_VERSION: u32 = 2;

const ACL_TAGS: [(u16, &str); 6] =
    [(0x01, "user"), (0x02, "user"), (0x04, "group"), (0x08, "group"), (0x10, "mask"), (0x20, "other")];

/// An ACL attribute (`system.posix_acl_*`, the kernel's binary form, see acl(5)) as the text that GNU tar
/// stores as `SCHILY.acl.*`. Ids stay numbers, so that the same tree gives the same bytes anywhere.
pub(super) fn acl_to_text(attribute: &[u8]) -> Option<String> {
    let (version, entries) = attribute.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != ACL_VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let perm = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (_, name) = ACL_TAGS.iter().find(|(t, _)| *t == tag)?;
        let qualifier = if matches!(tag, 0x02 | 0x08) { id.to_string() } else { String::new() };
        let bit = |mask: u16, letter: char| if perm & mask != 0 { letter } else { '-' };
        text.push_str(&format!("{name}:{qualifier}:{}{}{}\n", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(text)
}

/// The reverse of [`acl_to_text`]; also reads names, which other programs write.
pub(super) fn acl_from_text(text: &str) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for line in
        text.split(['\n', ',']).map(|l| l.split('#').next().unwrap_or("").trim()).filter(|l| !l.is_empty())
    {
        let mut parts = line.split(':');
        let (kind, qualifier, perms) = (parts.next()?, parts.next()?, parts.next()?);
        let named = !qualifier.is_empty();
        let (tag, id) = match (kind, named) {
            ("user" | "u", false) => (0x01u16, u32::MAX),
            ("user" | "u", true) => (0x02, user_id(qualifier, parts.next())?),
            ("group" | "g", false) => (0x04, u32::MAX),
            ("group" | "g", true) => (0x08, group_id(qualifier, parts.next())?),
            ("mask" | "m", false) => (0x10, u32::MAX),
            ("other" | "o", false) => (0x20, u32::MAX),
            _ => return None,
        };
        let perm = perms.bytes().try_fold(0u16, |perm, b| match b {
            b'r' => Some(perm | 4),
            b'w' => Some(perm | 2),
            b'x' => Some(perm | 1),
            b'-' => Some(perm),
            _ => None,
        })?;
        entries.push((tag, id, perm));
    }
    entries.sort_unstable();
    let mut out = ACL_VERSION.to_le_bytes().to_vec();
    for (tag, id, perm) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    Some(out)
}

fn user_id(name: &str, numeric: Option<&str>) -> Option<u32> {
    let known = || nix::unistd::User::from_name(name).ok().flatten().map(|u| u.uid.as_raw());
    name.parse().ok().or_else(known).or_else(|| numeric?.parse().ok())
}

fn group_id(name: &str, numeric: Option<&str>) -> Option<u32> {
    let known = || nix::unistd::Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw());
    name.parse().ok().or_else(known).or_else(|| numeric?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_survives_its_way_through_text() {
        let text = "user::rw-\nuser:1000:r-x\ngroup::r--\ngroup:27:-w-\nmask::rwx\nother::---\n";
        let binary = acl_from_text(text).unwrap();
        assert_eq!(acl_to_text(&binary).unwrap(), text);
    }

    #[test]
    fn a_damaged_acl_is_refused_not_guessed() {
        assert!(acl_to_text(b"").is_none());
        assert!(acl_to_text(&[2, 0, 0, 0, 1]).is_none());
        assert!(acl_to_text(&[9, 0, 0, 0]).is_none());
        assert!(acl_from_text("user::rwz").is_none());
        assert!(acl_from_text("nobody").is_none());
    }
}
