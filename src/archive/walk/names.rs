//! The names in one folder.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// The names of one folder, sorted by their bytes, in one block of memory.
pub(super) struct SortedNames {
    bytes: Vec<u8>,
    spans: Vec<(u32, u16)>,
}

impl SortedNames {
    pub(super) fn read(dir: &OwnedFd) -> io::Result<Self> {
        let mut names = Self { bytes: Vec::new(), spans: Vec::new() };
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = rustix::fs::RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let start = u32::try_from(names.bytes.len())
                .map_err(|_| io::Error::other("the names in this folder exceed 4 GiB"))?;
            names.spans.push((start, name.len() as u16));
            names.bytes.extend_from_slice(name);
        }
        let bytes = std::mem::take(&mut names.bytes);
        names.spans.sort_unstable_by(|a, b| span(&bytes, *a).cmp(span(&bytes, *b)));
        names.bytes = bytes;
        names.bytes.shrink_to_fit();
        names.spans.shrink_to_fit();
        Ok(names)
    }

    pub(super) fn get(&self, position: usize) -> Option<&[u8]> {
        self.spans.get(position).map(|s| span(&self.bytes, *s))
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by(|s| span(&self.bytes, *s).cmp(name)).is_ok()
    }

    pub(super) fn keep_only(&mut self, name: &[u8]) {
        let bytes = &self.bytes;
        self.spans.retain(|s| span(bytes, *s) == name);
    }
}

fn span(bytes: &[u8], (start, length): (u32, u16)) -> &[u8] {
    &bytes[start as usize..start as usize + length as usize]
}
