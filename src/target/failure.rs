//! What a failure at a target means for the next attempt.

use std::io::{self, ErrorKind};

/// Marks an error that trying again will not change: wrong credentials, an unknown host key, a bucket that does
/// not exist, a quota that is used up. It stands in the chain of the error; [`is_permanent`] finds it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Permanent(pub String);

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

/// Marks an error of the way to what is stored: no connection, no answer, one that broke off. It says nothing of what
/// is stored. It stands in the chain of the error; [`says_nothing_of_content`] finds it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreached(pub String);

/// True when an error of reading says nothing of what is stored: the target could not be reached, or does not let us
/// read. What is missing, too short, unreadable on its disk, or not what was written is no such error.
pub fn says_nothing_of_content(error: &anyhow::Error) -> bool {
    is_permanent(error)
        || error.chain().any(|cause| {
            cause.is::<Unreached>() || cause.downcast_ref::<io::Error>().is_some_and(is_of_the_way)
        })
}

fn is_of_the_way(error: &io::Error) -> bool {
    // What a file system answers about a file that is damaged or gone. All else it answers is about something else:
    // a server that is away, memory or descriptors that are used up.
    const OF_CONTENT: [i32; 9] = [
        libc::EIO,
        libc::EUCLEAN,
        libc::EBADMSG,
        libc::ENODATA,
        libc::EILSEQ,
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EISDIR,
        libc::ELOOP,
    ];
    match error.raw_os_error() {
        Some(code) => !OF_CONTENT.contains(&code),
        None => {
            error.get_ref().is_some_and(|inner| inner.is::<Unreached>())
                || matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::ConnectionReset
                        | ErrorKind::NotConnected
                        | ErrorKind::BrokenPipe
                        | ErrorKind::TimedOut
                )
        }
    }
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
    fn what_keeps_from_reading_is_told_from_what_is_wrong_with_the_stored() {
        let nothing = |error: anyhow::Error| says_nothing_of_content(&error.context("reading a file"));
        let system = |code| nothing(io::Error::from_raw_os_error(code).into());
        assert!(
            [libc::EACCES, libc::ESTALE, libc::ETIMEDOUT, libc::EHOSTDOWN, libc::EMFILE]
                .into_iter()
                .all(system)
        );
        assert!(![libc::ENOENT, libc::EIO, libc::EUCLEAN, libc::ELOOP].into_iter().any(system));
        assert!(nothing(Unreached("no answer".to_owned()).into()));
        assert!(nothing(io::Error::other(Unreached("no answer".to_owned())).into()));
        assert!(nothing(io::Error::other(Permanent("it is in an archive".to_owned())).into()));
        assert!(nothing(io::Error::new(ErrorKind::ConnectionAborted, "the server went").into()));
        for damage in
            [ErrorKind::UnexpectedEof, ErrorKind::InvalidData, ErrorKind::NotFound, ErrorKind::Other]
        {
            assert!(!nothing(io::Error::new(damage, "frame 3").into()), "{damage}");
        }
        assert!(!nothing(anyhow::anyhow!("there is no file.tar.zst")));
    }

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
