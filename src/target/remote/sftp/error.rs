//! What goes wrong with an SFTP server, and what it means for the next attempt.

use std::io;

use super::wire::status;
use crate::target::{Permanent, Unreached};

/// Why an operation did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum SftpError {
    /// There is no connection (any more); a new one may work.
    #[error("{0}")]
    Lost(String),
    /// There is no connection, and trying again will not change it.
    #[error("{0}")]
    Final(String),
    /// The server answered that it did not do it.
    #[error("{}", describe(*.code, .message))]
    Status {
        /// One of [`status`].
        code: u32,
        /// The server's words.
        message: String,
    },
}

impl SftpError {
    /// An answer that is not as the protocol wants it.
    pub(super) fn malformed(what: impl std::fmt::Display) -> Self {
        Self::Lost(format!("the server does not keep to the protocol: {what}"))
    }

    pub(super) fn is(&self, wanted: u32) -> bool {
        matches!(self, Self::Status { code, .. } if *code == wanted)
    }

    /// With what was tried. What is final carries the mark for it.
    pub(super) fn doing(self, what: impl std::fmt::Display) -> anyhow::Error {
        let text = format!("{what}: {self}");
        match self {
            Self::Final(_) | Self::Status { code: status::PERMISSION_DENIED, .. } => Permanent(text).into(),
            Self::Lost(_) => Unreached(text).into(),
            Self::Status { .. } => anyhow::anyhow!(text),
        }
    }

    /// As the error of a read or write.
    pub(super) fn into_io(self) -> io::Error {
        match &self {
            Self::Final(_) | Self::Status { code: status::PERMISSION_DENIED, .. } => {
                io::Error::other(Permanent(self.to_string()))
            }
            Self::Lost(_) => io::Error::new(io::ErrorKind::ConnectionAborted, self.to_string()),
            Self::Status { .. } => io::Error::other(self.to_string()),
        }
    }
}

fn describe(code: u32, message: &str) -> String {
    let known = match code {
        status::EOF => "there is no more to read",
        status::NO_SUCH_FILE => "there is no such file or folder",
        status::PERMISSION_DENIED => "the server does not permit it",
        status::FAILURE => "the server could not do it",
        status::UNSUPPORTED => "the server does not support it",
        _ => "the server refused it",
    };
    // OpenSSH's texts say no more than the numbers.
    let plain = ["", "Failure", "No such file", "Permission denied", "End of file", "Operation unsupported"];
    match plain.contains(&message) {
        true => known.to_owned(),
        false => format!("{known}: {}", message.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::is_permanent;

    #[test]
    fn what_is_final_is_marked_also_inside_io_errors() {
        let refused = SftpError::Status { code: status::PERMISSION_DENIED, message: String::new() };
        assert!(is_permanent(&refused.clone().doing("creating x")));
        assert!(is_permanent(&refused.into_io().into()));
        let full = SftpError::Status { code: status::FAILURE, message: "Failure".to_owned() };
        assert_eq!(full.to_string(), "the server could not do it");
        assert!(!is_permanent(&full.doing("writing x")));
        assert!(!is_permanent(&SftpError::Lost("reset".to_owned()).into_io().into()));
    }
}
