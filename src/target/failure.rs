//! What a failure at a target means for the next attempt.

use std::fmt;
use std::io::{self, ErrorKind};

/// Marks an error that trying again will not change: wrong credentials, an unknown host key, a bucket that does
/// not exist, a quota that is used up. It stands in the chain of the error; [`is_permanent`] finds it.
#[derive(Debug)]
pub struct Permanent(pub String);

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Permanent {}

/// True when trying again makes no sense until somebody changed something.
pub fn is_permanent(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Permanent>()
            // An error that came through `Read` or `Write` carries the mark inside.
            || cause.downcast_ref::<io::Error>().is_some_and(|e| {
                e.get_ref().is_some_and(|inner| inner.is::<Permanent>()) || needs_somebody(e.kind())
            })
    })
}

/// What a file system says that only a person changes.
fn needs_somebody(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_mark_is_found_below_other_causes_and_inside_io_errors() {
        let marked: anyhow::Result<()> = Err(Permanent("wrong key".to_owned()).into());
        assert!(is_permanent(&marked.context("copying").unwrap_err()));
        let inside: anyhow::Result<()> = Err(std::io::Error::other(Permanent("quota".to_owned())).into());
        assert!(is_permanent(&inside.context("writing").unwrap_err()));
        assert!(!is_permanent(&anyhow::anyhow!("connection reset").context("copying")));
        let system =
            |code| is_permanent(&anyhow::Error::from(io::Error::from_raw_os_error(code)).context("x"));
        assert!([libc::EACCES, libc::EROFS, libc::EDQUOT].into_iter().all(system));
        assert!(![libc::ENOSPC, libc::EIO, libc::ETIMEDOUT, libc::ESTALE].into_iter().any(system));
    }
}
