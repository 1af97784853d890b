//! Whether cron takes a user's crontab at all, by what the file is, before a line of it is read.
//!
//! What Debian's cron 3.0pl1 does was tried with it; the other is cronie.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// What is known of the file itself; no link is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct File {
    kind: Kind,
    uid: u32,
    /// Permission bits, with those for set-id and sticky.
    mode: u32,
    links: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Link,
    Folder,
    Fifo,
    Other(&'static str),
}

/// Who may own it beside its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) root: u32,
    /// None where nobody knows the user here, which a directory service may.
    pub(super) user: Option<u32>,
}

/// Why cron does not take a file, and what mends that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) why: String,
    /// A command, or a sentence.
    pub(super) fix: String,
}

impl File {
    pub(super) fn new(meta: &Metadata) -> Self {
        let file_type = meta.file_type();
        let kind = match () {
            () if file_type.is_file() => Kind::Regular,
            () if file_type.is_symlink() => Kind::Link,
            () if file_type.is_dir() => Kind::Folder,
            () if file_type.is_fifo() => Kind::Fifo,
            () if file_type.is_socket() => Kind::Other("a socket"),
            () => Kind::Other("a device"),
        };
        Self { kind, uid: meta.uid(), mode: meta.mode() & 0o7777, links: meta.nlink() }
    }

    pub(super) fn is_folder(self) -> bool {
        self.kind == Kind::Folder
    }

    /// Why the cron of Debian, or the one of Red Hat and others, passes over it as the crontab of `user`; none
    /// where it takes it.
    pub(super) fn refusal(self, path: &str, user: &str, owners: Owners, is_debian: bool) -> Option<Refusal> {
        let refusal = |why: String, fix: String| Some(Refusal { why, fix });
        let again = || format!("Have it written by `crontab -u {user} -e`, and remove {path} before");
        match self.kind {
            Kind::Regular | Kind::Folder => {}
            Kind::Link if !is_debian => return None, // what it leads to decides
            Kind::Link => {
                return refusal("it is a symbolic link, which cron does not follow".to_owned(), again());
            }
            // It opens it as it would a file.
            Kind::Fifo => {
                let why = "it is a FIFO, which cron waits for: it starts nothing at all any more";
                return refusal(why.to_owned(), again());
            }
            Kind::Other(kind) => return refusal(format!("it is {kind} and no file"), again()),
        }
        if owners.user.is_some_and(|owner| ![owner, owners.root].contains(&self.uid)) {
            let why = format!("it belongs to user {}, and neither to {user} nor to root", self.uid);
            return refusal(why, format!("chown {user} {path}"));
        }
        let closes = || format!("chmod 600 {path}");
        let mode = self.mode;
        if is_debian && mode & 0o077 != 0 {
            return refusal("others can read or change it".to_owned(), closes());
        }
        if is_debian && mode != 0o600 {
            return refusal(format!("its mode is {mode:04o}, and cron wants 0600"), closes());
        }
        if !is_debian && mode & 0o7533 != 0o400 {
            let why = format!(
                "its mode is {mode:04o}: its owner must be able to read it, nobody to run it, and others not to change it"
            );
            return refusal(why, closes());
        }
        if self.links > 1 {
            let why = format!("it has {} names (hard links), and cron wants one", self.links);
            return refusal(
                why,
                format!("Find them with `find / -xdev -samefile {path}`, and remove the others"),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNERS: Owners = Owners { root: 0, user: Some(1000) };

    fn why(file: File, is_debian: bool) -> Option<String> {
        file.refusal("/spool/ann", "ann", OWNERS, is_debian).map(|r| format!("{}: {}", r.why, r.fix))
    }

    #[test]
    fn what_each_cron_takes_and_what_it_passes_over() {
        let good = File { kind: Kind::Regular, uid: 1000, mode: 0o600, links: 1 };
        for (file, debian, others) in [
            (good, None, None),
            (File { uid: 0, ..good }, None, None),
            (File { uid: 33, ..good }, Some("chown ann /spool/ann"), Some("chown ann /spool/ann")),
            (File { mode: 0o644, ..good }, Some("others can read or change it: chmod 600"), None),
            (File { mode: 0o620, ..good }, Some("others can read or change it"), Some("its mode is 0620")),
            (File { mode: 0o400, ..good }, Some("its mode is 0400, and cron wants 0600"), None),
            (File { mode: 0o700, ..good }, Some("its mode is 0700"), Some("its mode is 0700")),
            (File { mode: 0o200, ..good }, Some("its mode is 0200"), Some("its mode is 0200")),
            (File { mode: 0o4600, ..good }, Some("its mode is 4600"), Some("its mode is 4600")),
            (File { links: 2, ..good }, Some("it has 2 names"), Some("it has 2 names")),
            (File { kind: Kind::Link, ..good }, Some("it is a symbolic link"), None),
            (File { kind: Kind::Fifo, ..good }, Some("it is a FIFO"), Some("it is a FIFO")),
        ] {
            for (is_debian, expected) in [(true, debian), (false, others)] {
                let found = why(file, is_debian);
                let fits = match (&found, expected) {
                    (Some(found), Some(expected)) => found.contains(expected),
                    (None, None) => true,
                    _ => false,
                };
                assert!(fits, "{file:?} {is_debian}: {found:?}, not {expected:?}");
            }
        }
        let unknown = Owners { user: None, ..OWNERS };
        assert_eq!(File { uid: 33, ..good }.refusal("/spool/ann", "ann", unknown, true), None);
    }
}
