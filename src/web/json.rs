//! JSON for people's terminals as well as for programs: no text is longer than its room, and none can act on
//! the screen it is printed to.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use super::text::acts;

/// Bytes of one text; what is longer ends with `…`.
const TEXT_MAX: usize = 4_096;

/// The value as JSON. Invisible characters and those that turn the direction of writing stand as `\u202e`,
/// which every parser reads as the same character.
pub(super) fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Bounded { room: 0, cut: false }))?;
    Ok(out)
}

/// Writes texts up to their room.
struct Bounded {
    room: usize,
    cut: bool,
}

impl Bounded {
    /// Whether there is room for so many bytes more of the text; once there is not, there never is again.
    fn takes(&mut self, bytes: usize) -> bool {
        self.cut |= bytes > self.room;
        if !self.cut {
            self.room -= bytes;
        }
        !self.cut
    }
}

impl Formatter for Bounded {
    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        (self.room, self.cut) = (TEXT_MAX, false);
        writer.write_all(b"\"")
    }

    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(if self.cut { "…\"".as_bytes() } else { b"\"" })
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            if !self.takes(c.len_utf8()) {
                return writer.write_all(&text.as_bytes()[plain..at]);
            }
            if acts(c) {
                writer.write_all(&text.as_bytes()[plain..at])?;
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
                plain = at + c.len_utf8();
            }
        }
        writer.write_all(&text.as_bytes()[plain..])
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        if self.takes(1) { CompactFormatter.write_char_escape(writer, escape) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(text: &str) -> (String, String) {
        let json = String::from_utf8(to_vec(&[text]).unwrap()).unwrap();
        let [value]: [String; 1] = serde_json::from_str(&json).unwrap();
        (json, value)
    }

    #[test]
    fn a_text_means_the_same_and_cannot_act() {
        let text = "<script>\"'\\ \u{202e}gpj\u{7f}\u{9b}2J\u{0}\u{1b}\n\u{e0041}ü漢";
        let (json, value) = read_back(text);
        assert_eq!(value, text);
        assert!(!json.chars().any(acts), "{json}");
        assert!(json.contains("\\u202egpj\\u007f"), "{json}");
    }

    #[test]
    fn a_long_text_is_cut_and_the_next_one_is_not() {
        for part in ["x", "\"", "\u{1b}", "漢", "a\n"] {
            let long = part.repeat(10_000);
            let json = String::from_utf8(to_vec(&[long.as_str(), "short"]).unwrap()).unwrap();
            let [value, next]: [String; 2] = serde_json::from_str(&json).unwrap();
            let kept = value.strip_suffix('…').unwrap();
            assert!(
                long.starts_with(kept) && kept.len() > TEXT_MAX - 4 && kept.len() <= TEXT_MAX,
                "{part:?}"
            );
            assert_eq!(next, "short");
        }
        assert_eq!(read_back(&"x".repeat(TEXT_MAX)).1.len(), TEXT_MAX);
    }
}
