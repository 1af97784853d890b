//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), as OpenSSH speaks it.

use super::error::SftpError;

/// Numbers of requests and answers.
pub(super) mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// How a file is opened.
pub(super) mod open {
    pub const READ: u32 = 0x01;
    pub const WRITE: u32 = 0x02;
    pub const CREATE: u32 = 0x08;
    pub const TRUNCATE: u32 = 0x10;
    pub const EXCLUSIVE: u32 = 0x20;
}

/// What a status says.
pub(super) mod status {
    pub const OK: u32 = 0;
    pub const EOF: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
    pub const UNSUPPORTED: u32 = 8;
}

const ATTR_SIZE: u32 = 0x1;
const ATTR_IDS: u32 = 0x2;
const ATTR_PERMISSIONS: u32 = 0x4;
const ATTR_TIMES: u32 = 0x8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// A packet on its way to the server. Its length and its number are filled in when it is sent.
pub(super) struct Packet(Vec<u8>);

impl Packet {
    pub(super) fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind, 0, 0, 0, 0])
    }

    /// A request that the base protocol does not have.
    pub(super) fn extended(name: &str) -> Self {
        Self::new(kind::EXTENDED).string(name.as_bytes())
    }

    /// The first packet, which has the version where others have their number.
    pub(super) fn init() -> Vec<u8> {
        vec![0, 0, 0, 5, kind::INIT, 0, 0, 0, 3]
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn string(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Attributes that say no more than the permissions.
    pub(super) fn permissions(self, mode: u32) -> Self {
        self.u32(ATTR_PERMISSIONS).u32(mode)
    }

    /// The whole of it as sent under the number `id`.
    pub(super) fn numbered(mut self, id: u32) -> Vec<u8> {
        number(&mut self.0, id);
        self.0
    }
}

/// Fills in length and number of a packet.
fn number(bytes: &mut [u8], id: u32) {
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes[5..9].copy_from_slice(&id.to_be_bytes());
}

/// A request to write, filled by one caller after another without being copied again.
pub(super) struct WritePacket {
    bytes: Vec<u8>,
    /// Where the data begin.
    head: usize,
    room: usize,
}

impl WritePacket {
    /// One for a handle, with room for so many bytes of data.
    pub(super) fn new(handle: &[u8], room: usize) -> Self {
        let mut bytes = Vec::with_capacity(room + handle.len() + 32);
        bytes.extend_from_slice(&Packet::new(kind::WRITE).string(handle).u64(0).u32(0).0);
        Self { head: bytes.len(), bytes, room }
    }

    /// Takes as much as there is room for, and says how much.
    pub(super) fn take(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.room - self.len());
        self.bytes.extend_from_slice(&data[..taken]);
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == self.room
    }

    /// The whole of it, to be written at `offset` of the file.
    pub(super) fn at(&mut self, offset: u64, id: u32) -> &[u8] {
        let length = self.len() as u32;
        self.bytes[self.head - 12..self.head - 4].copy_from_slice(&offset.to_be_bytes());
        self.bytes[self.head - 4..self.head].copy_from_slice(&length.to_be_bytes());
        number(&mut self.bytes, id);
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(self.head);
    }
}

/// An answer of the server, without its length and number.
pub(super) struct Answer {
    pub(super) id: u32,
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields(&self.body)
    }

    /// An answer that can only be a status: an error unless that is OK.
    pub(super) fn done(&self) -> Result<(), SftpError> {
        self.expect(kind::STATUS).map(drop)
    }

    /// The fields of an answer of one kind. A status other than OK is the error it tells.
    pub(super) fn expect(&self, kind: u8) -> Result<Fields<'_>, SftpError> {
        let mut fields = self.fields();
        if self.kind == kind::STATUS {
            let code = fields.u32()?;
            // Old servers leave the text away.
            let message = fields.string().map(|text| String::from_utf8_lossy(text).into_owned());
            return match (code, kind) {
                (status::OK, kind::STATUS) => Ok(fields),
                (status::OK, _) => Err(SftpError::malformed("OK was answered where something was asked for")),
                _ => Err(SftpError::Status { code, message: message.unwrap_or_default() }),
            };
        }
        match self.kind == kind {
            true => Ok(fields),
            false => Err(SftpError::malformed(format!("an answer of kind {} was not expected", self.kind))),
        }
    }
}

/// Reads the fields of a packet, one after another.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u32(&mut self) -> Result<u32, SftpError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, SftpError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], SftpError> {
        let length = self.u32()? as usize;
        let (found, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SftpError> {
        let (found, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*found)
    }

    pub(super) fn attributes(&mut self) -> Result<Attributes, SftpError> {
        let flags = self.u32()?;
        let mut found = Attributes::default();
        if flags & ATTR_SIZE != 0 {
            found.size = Some(self.u64()?);
        }
        if flags & ATTR_IDS != 0 {
            self.u64()?;
        }
        if flags & ATTR_PERMISSIONS != 0 {
            found.mode = Some(self.u32()?);
        }
        if flags & ATTR_TIMES != 0 {
            self.u64()?;
        }
        if flags & ATTR_EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(found)
    }
}

fn short() -> SftpError {
    SftpError::malformed("a packet ends too early")
}

/// What a server says of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// Type and permissions, as `st_mode`.
    pub(super) mode: Option<u32>,
}

impl Attributes {
    fn is(&self, kind: u32) -> bool {
        self.mode.is_some_and(|mode| mode & 0o170_000 == kind)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.is(0o040_000)
    }

    pub(super) fn is_file(&self) -> bool {
        self.is(0o100_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_sent_as_the_protocol_has_it_and_its_packet_is_used_again() {
        let mut packet = WritePacket::new(b"h1", 4);
        assert_eq!(packet.take(b"abcdef"), 4);
        assert!(packet.is_full());
        let mut wanted = vec![0, 0, 0, 27, kind::WRITE, 0, 0, 0, 9, 0, 0, 0, 2, b'h', b'1'];
        wanted.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, b'a', b'b', b'c', b'd']);
        assert_eq!(packet.at(1 << 32, 9), wanted);
        packet.clear();
        assert_eq!((packet.len(), packet.take(b"x")), (0, 1));
    }

    #[test]
    fn answers_are_read_and_those_that_end_too_early_are_errors() {
        let body = Packet::new(0).u32(ATTR_SIZE | ATTR_PERMISSIONS | ATTR_TIMES | ATTR_EXTENDED).u64(7);
        let body = body.u32(0o100_600).u64(0).u32(1).string(b"name").string(b"value").0[9..].to_vec();
        for cut in 0..body.len() {
            let answer = Answer { id: 1, kind: kind::ATTRS, body: body[..cut].to_vec() };
            assert!(answer.expect(kind::ATTRS).unwrap().attributes().is_err(), "{cut}");
        }
        let answer = Answer { id: 1, kind: kind::ATTRS, body };
        let found = answer.expect(kind::ATTRS).unwrap().attributes().unwrap();
        assert_eq!(found, Attributes { size: Some(7), mode: Some(0o100_600) });
        assert!(found.is_file() && !found.is_folder());

        let body = Packet::new(0).u32(status::NO_SUCH_FILE).0[9..].to_vec();
        let answer = Answer { id: 1, kind: kind::STATUS, body };
        let refused = answer.done().unwrap_err();
        assert!(matches!(refused, SftpError::Status { code: status::NO_SUCH_FILE, .. }), "{refused}");
        let huge = Answer { id: 1, kind: kind::HANDLE, body: vec![0xff, 0xff, 0xff, 0xff, 0] };
        assert!(huge.expect(kind::HANDLE).unwrap().string().is_err());
    }
}
