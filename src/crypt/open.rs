//! An encrypted file opened with a key.

use std::io::Read;

use super::Keyring;

/// Content bytes in a piece of the stored file.
const PIECE: u64 = 64 << 10;
/// Bytes that prove a piece.
const TAG: u64 = 16;

/// The content of an encrypted file; can be sought where the file can be.
pub type Opened<R> = age::stream::StreamReader<R>;

/// Why an encrypted file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is encrypted to other keys.
    #[error("none of the keys given opens it")]
    NoKey,
    /// It is encrypted with another passphrase.
    #[error("the passphrase given is not the one it is encrypted with")]
    WrongPassphrase,
    /// It is no age file, or its header is not what was written.
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    /// It cannot be read.
    #[error("reading its header: {0}")]
    Read(#[source] std::io::Error),
}

/// Reads the header of `source` and opens it; nothing beyond the header is read.
pub fn open<R: Read>(source: R, keys: &Keyring) -> Result<Opened<R>, OpenError> {
    use age::DecryptError as Bad;
    let decryptor = age::Decryptor::new(source).map_err(|e| match e {
        Bad::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => OpenError::Damaged("it is cut off"),
        Bad::Io(e) => OpenError::Read(e),
        Bad::UnknownFormat => OpenError::Damaged("it has a format that this program does not know"),
        _ => OpenError::Damaged("it is no file of age"),
    })?;
    let by_passphrase = decryptor.is_scrypt();
    decryptor.decrypt(keys.identities()).map_err(|e| match e {
        Bad::NoMatchingKeys => OpenError::NoKey,
        Bad::DecryptionFailed | Bad::KeyDecryptionFailed if by_passphrase => OpenError::WrongPassphrase,
        Bad::ExcessiveWork { .. } => OpenError::Damaged("opening it would take more memory than is sensible"),
        Bad::Io(e) => OpenError::Read(e),
        _ => OpenError::Damaged("what is encrypted to the key was changed"),
    })
}

/// The length of the content whose `payload` bytes follow the header; none for a length no file has.
pub fn content_length(payload: u64) -> Option<u64> {
    payload.checked_sub(payload.div_ceil(PIECE + TAG).max(1) * TAG)
}

/// Where in the payload the piece ends that holds the last content byte before `end`.
pub fn stored_end(end: u64) -> u64 {
    end.div_ceil(PIECE) * (PIECE + TAG)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Seek, SeekFrom, Write};

    use super::*;
    use crate::crypt::{Seal, generate};

    fn key(dir: &tempfile::TempDir, name: &str) -> (Seal, Keyring) {
        use std::os::unix::fs::OpenOptionsExt;
        let made = generate(chrono::DateTime::UNIX_EPOCH);
        let file = dir.path().join(name);
        let mut out =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
        out.write_all(made.file.expose().as_bytes()).unwrap();
        let files = crate::crypt::KeyFiles { identities: vec![file], passphrase_file: None };
        (Seal::to_keys(vec![made.public.parse().unwrap()]).unwrap(), files.read().unwrap())
    }

    #[test]
    fn content_is_opened_by_its_key_only_and_its_length_follows_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let (seal, keys) = key(&dir, "a");
        let (_, others) = key(&dir, "b");
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let content: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let mut writer = seal.writer(Vec::new()).unwrap();
            writer.write_all(&content).unwrap();
            let stored = writer.finish().unwrap();
            assert!(matches!(open(&stored[..], &others).err().unwrap(), OpenError::NoKey));
            let mut at = Cursor::new(&stored[..]);
            let mut opened = open(&mut at, &keys).unwrap();
            let mut back = Vec::new();
            opened.read_to_end(&mut back).unwrap();
            assert_eq!(back, content);
            assert_eq!(opened.seek(SeekFrom::End(0)).unwrap(), length);
            let mut header = Cursor::new(&stored[..]);
            open(&mut header, &keys).unwrap();
            let payload = stored.len() as u64 - header.position();
            assert_eq!(content_length(payload), Some(length));
            assert!(stored_end(length) >= payload || length == 0);
        }
        assert_eq!(content_length(3), None);
    }

    #[test]
    fn a_damaged_header_is_told_apart_from_a_missing_key() {
        let dir = tempfile::tempdir().unwrap();
        let (seal, keys) = key(&dir, "a");
        let stored = seal.writer(Vec::new()).unwrap().finish().unwrap();
        for (bytes, said) in [
            (stored[..40].to_vec(), "cut off"),
            (b"PK\x03\x04 no age file at all, but something else".to_vec(), "no file of age"),
            (
                {
                    let mut bad = stored.clone();
                    let at = bad.len() - 60;
                    bad[at] ^= 1;
                    bad
                },
                "header is damaged",
            ),
        ] {
            let error = open(&bytes[..], &keys).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
