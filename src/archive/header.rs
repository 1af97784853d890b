//! Tar headers: POSIX (pax) with the extensions GNU tar reads.
//!
//! The plain header carries what fits; a pax header before it carries nanoseconds, long UTF-8 names, sizes
//! and ids beyond octal, extended attributes and ACLs. Long names that are not UTF-8 go into GNU `L`/`K`
//! entries, since pax values are text. Sparse files use GNU's pax format 1.0.

use tar::{EntryType, Header};

use super::meta::{Extents, Meta, Names, acl_to_text};

pub(super) const BLOCK: usize = 512;
/// The two blocks of zeros that end an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

const OCTAL_SIZE_MAX: u64 = 0o77_777_777_777;
const OCTAL_ID_MAX: u32 = 0o7_777_777;

/// The bytes that pad `length` to whole blocks.
pub(super) fn padding(length: u64) -> usize {
    (BLOCK - (length % BLOCK as u64) as usize) % BLOCK
}

/// What one entry is.
pub(super) enum What<'a> {
    Dir,
    /// A file whose `size` bytes of content follow.
    File {
        size: u64,
    },
    /// A sparse file: the map and the extents' content follow.
    Sparse {
        size: u64,
        extents: &'a Extents,
    },
    Symlink {
        target: &'a [u8],
    },
    Hardlink {
        target: &'a [u8],
    },
}

/// Appends all headers of an entry to `out`, for a sparse file its map too.
pub(super) fn write_entry(
    out: &mut Vec<u8>,
    path: &[u8],
    what: &What<'_>,
    meta: &Meta,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    names: &Names,
) {
    let mut pax = Pax::default();
    let map = match what {
        What::Sparse { size, extents } => sparse_map(*size, extents),
        _ => Vec::new(),
    };
    let (kind, size, link): (EntryType, u64, &[u8]) = match what {
        What::Dir => (EntryType::Directory, 0, b""),
        What::File { size } => (EntryType::Regular, *size, b""),
        What::Sparse { extents, .. } => {
            (EntryType::Regular, map.len() as u64 + extents.iter().map(|(_, l)| l).sum::<u64>(), b"")
        }
        What::Symlink { target } => (EntryType::Symlink, 0, target),
        What::Hardlink { target } => (EntryType::Link, 0, target),
    };

    let mut short_name = path;
    let sparse_name;
    if let What::Sparse { size, .. } = what {
        pax.add("GNU.sparse.major", b"1");
        pax.add("GNU.sparse.minor", b"0");
        pax.add("GNU.sparse.name", path);
        pax.add("GNU.sparse.realsize", size.to_string().as_bytes());
        sparse_name = [b"GNUSparseFile.0/", tail(path, 80)].concat();
        short_name = &sparse_name;
    } else if path.len() > 100 {
        long_name(out, &mut pax, path, "path", EntryType::GNULongName);
    }
    if link.len() > 100 {
        long_name(out, &mut pax, link, "linkpath", EntryType::GNULongLink);
    }
    if size > OCTAL_SIZE_MAX {
        pax.add("size", size.to_string().as_bytes());
    }
    if meta.uid > OCTAL_ID_MAX {
        pax.add("uid", meta.uid.to_string().as_bytes());
    }
    if meta.gid > OCTAL_ID_MAX {
        pax.add("gid", meta.gid.to_string().as_bytes());
    }
    // The header counts whole seconds from 1970 to 2242; pax has no such limits.
    if meta.mtime_nanos != 0 || meta.mtime < 0 || meta.mtime as u64 > OCTAL_SIZE_MAX {
        pax.add("mtime", pax_time(meta.mtime, meta.mtime_nanos).as_bytes());
    }
    let (user, group) = (names.user(meta.uid), names.group(meta.gid));
    if user.len() > 31 {
        pax.add("uname", user.as_bytes());
    }
    if group.len() > 31 {
        pax.add("gname", group.as_bytes());
    }
    if !matches!(what, What::Hardlink { .. }) {
        xattrs.iter().for_each(|(name, value)| pax.add_xattr(name, value));
    }
    pax.write(out, path);

    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(u64::from(meta.uid));
    header.set_gid(u64::from(meta.gid));
    header.set_size(size);
    header.set_mtime(meta.mtime.clamp(0, OCTAL_SIZE_MAX as i64) as u64);
    if let Some(ustar) = header.as_ustar_mut() {
        put(&mut ustar.name, short_name);
        put(&mut ustar.linkname, link);
        put(&mut ustar.uname, &user.as_bytes()[..user.len().min(31)]);
        put(&mut ustar.gname, &group.as_bytes()[..group.len().min(31)]);
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&map);
}

/// The sparse map of GNU's pax format 1.0: decimal numbers on lines of their own, padded to whole blocks.
fn sparse_map(size: u64, extents: &Extents) -> Vec<u8> {
    let ends_in_hole = extents.last().is_none_or(|(offset, length)| offset + length < size);
    let count = extents.len() + usize::from(ends_in_hole);
    let mut map = format!("{count}\n");
    for (offset, length) in extents {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    if ends_in_hole {
        map.push_str(&format!("{size}\n0\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

fn pax_time(seconds: i64, nanos: u32) -> String {
    // A moment before 1970 counts its fraction downwards: -1.25 is 1.25 s before, while the pair holds
    // -2 s and 750,000,000 ns.
    let text = if seconds < 0 && nanos > 0 {
        let whole = seconds + 1;
        format!("{}{}.{:09}", if whole == 0 { "-" } else { "" }, whole, 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn long_name(out: &mut Vec<u8>, pax: &mut Pax, name: &[u8], key: &str, kind: EntryType) {
    if std::str::from_utf8(name).is_ok() {
        pax.add(key, name);
        return;
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(name.len() as u64 + 1);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    if let Some(gnu) = header.as_gnu_mut() {
        put(&mut gnu.name, b"././@LongLink");
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(name);
    out.resize(out.len() + 1 + padding(name.len() as u64 + 1), 0);
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

fn tail(path: &[u8], length: usize) -> &[u8] {
    &path[path.len().saturating_sub(length)..]
}

#[derive(Default)]
struct Pax(Vec<u8>);

impl Pax {
    /// One record: its own length in decimal, a space, `key=value`, a line break.
    fn add(&mut self, key: &str, value: &[u8]) {
        self.add_bytes(key.as_bytes(), value);
    }

    fn add_bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = 1 + key.len() + 1 + value.len() + 1;
        let mut length = rest + 1;
        while rest + length.to_string().len() > length {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn add_xattr(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"system.posix_acl_access" => self.add_acl("SCHILY.acl.access", value),
            b"system.posix_acl_default" => self.add_acl("SCHILY.acl.default", value),
            // An equals sign would end the key early for every reader; no attribute in use has one.
            _ if name.contains(&b'=') => {}
            _ => self.add_bytes(&[b"SCHILY.xattr.", name].concat(), value),
        }
    }

    fn add_acl(&mut self, key: &str, value: &[u8]) {
        if let Some(text) = acl_to_text(value) {
            self.add(key, text.as_bytes());
        }
    }

    fn write(&self, out: &mut Vec<u8>, path: &[u8]) {
        if self.0.is_empty() {
            return;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(self.0.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if let Some(ustar) = header.as_ustar_mut() {
            let trimmed = path.strip_suffix(b"/").unwrap_or(path);
            put(&mut ustar.name, &[b"PaxHeaders/", tail(trimmed, 80)].concat());
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.0);
        out.resize(out.len() + padding(self.0.len() as u64), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for value_length in [0, 1, 80, 85, 86, 87, 88, 989, 990, 991, 992, 993, 10_000] {
            let mut pax = Pax::default();
            pax.add("k", &vec![b'v'; value_length]);
            let text = String::from_utf8(pax.0.clone()).unwrap();
            let stated: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(stated, pax.0.len(), "value of {value_length} bytes");
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(pax_time(12, 500_000_000), "12.5");
        assert_eq!(pax_time(12, 0), "12");
        assert_eq!(pax_time(-2, 750_000_000), "-1.25");
        assert_eq!(pax_time(-1, 750_000_000), "-0.25");
        assert_eq!(pax_time(-10, 0), "-10");
    }
}
