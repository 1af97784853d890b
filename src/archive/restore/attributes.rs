//! What the headers of an entry say about it.

use std::io;

use anyhow::{Context, Result};
use rustix::fs::Timespec;
use tar::EntryType;

use crate::archive::entries::TarEntry;
use crate::archive::meta::acl_from_text;

/// What an entry's headers say.
pub(super) struct Attributes {
    pub path: Vec<u8>,
    pub kind: EntryType,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub user: Vec<u8>,
    pub group: Vec<u8>,
    pub mtime: Timespec,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// The real size of a sparse file in GNU's pax format.
    pub sparse_size: Option<u64>,
}

impl Attributes {
    pub fn read(entry: TarEntry) -> Result<Self> {
        let header = &entry.header;
        let number = |field: io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
        let mut found = Self {
            path: entry.path,
            kind: header.entry_type(),
            link: entry.link,
            mode: header.mode()? & 0o7777,
            uid: header.uid()? as u32,
            gid: header.gid()? as u32,
            user: header.username_bytes().unwrap_or_default().to_vec(),
            group: header.groupname_bytes().unwrap_or_default().to_vec(),
            mtime: Timespec { tv_sec: header.mtime()? as i64, tv_nsec: 0 },
            xattrs: Vec::new(),
            device: (number(header.device_major()), number(header.device_minor())),
            sparse_size: None,
        };
        for (key, value) in entry.pax {
            let text = || std::str::from_utf8(&value).ok();
            let number = || text().and_then(|v| v.parse::<u64>().ok());
            match &key[..] {
                b"GNU.sparse.realsize" => found.sparse_size = Some(number().context("a damaged size")?),
                b"uid" => found.uid = number().context("a damaged uid")? as u32,
                b"gid" => found.gid = number().context("a damaged gid")? as u32,
                b"uname" => found.user = value,
                b"gname" => found.group = value,
                b"mtime" => found.mtime = text().and_then(pax_time).context("a damaged mtime")?,
                b"SCHILY.acl.access" => found.add_acl("system.posix_acl_access", &value),
                b"SCHILY.acl.default" => found.add_acl("system.posix_acl_default", &value),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        found.xattrs.push((name.to_vec(), value));
                    }
                }
            }
        }
        Ok(found)
    }

    fn add_acl(&mut self, name: &str, text: &[u8]) {
        if let Some(binary) = std::str::from_utf8(text).ok().and_then(acl_from_text) {
            self.xattrs.push((name.as_bytes().to_vec(), binary));
        }
    }
}

/// A decimal number of seconds with a fraction, as pax writes times.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{:0<9.9}", fraction).parse().ok()?;
    Some(match (negative, nanos) {
        (true, 1..) => Timespec { tv_sec: whole - 1, tv_nsec: 1_000_000_000 - nanos },
        _ => Timespec { tv_sec: whole, tv_nsec: nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_are_read_with_their_sign() {
        let time = |t: &str| pax_time(t).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time("12.5x"), None);
        assert_eq!(time(""), None);
    }
}
