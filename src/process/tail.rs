//! The end of a child's standard error, bounded and fit to be shown.

use crate::model::Secret;

use super::{STDERR_BYTES, STDERR_LINES, StderrTail};

/// Longest line that is kept whole, in characters.
const MAX_LINE: usize = 1000;
/// Secrets shorter than this are not looked for: replacing every `a` would hide the message, not the secret.
const MIN_SECRET: usize = 3;
/// Shown in place of a secret.
const REPLACEMENT: &[u8] = b"[secret]";

/// Collects bytes and keeps the last [`STDERR_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        // Moving the rest for each small chunk would cost time; once it has doubled is often enough.
        if self.bytes.len() >= 2 * STDERR_BYTES {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let excess = self.bytes.len().saturating_sub(STDERR_BYTES);
        self.bytes.drain(..excess);
        self.cut |= excess > 0;
    }

    /// The last lines, for people.
    pub(super) fn finish<'a>(mut self, secrets: impl Iterator<Item = &'a Secret>) -> StderrTail {
        self.trim();
        // A first line that was cut may begin with the second half of a secret.
        if self.cut {
            let end = self.bytes.iter().position(|b| *b == b'\n').map_or(self.bytes.len(), |at| at + 1);
            self.bytes.drain(..end);
        }
        let mut needles: Vec<&str> = secrets
            .flat_map(|secret| std::iter::once(secret.expose()).chain(secret.expose().lines()))
            .map(str::trim)
            .filter(|text| text.len() >= MIN_SECRET)
            .collect();
        // The longest first: one secret may contain another.
        needles.sort_by_key(|text| std::cmp::Reverse(text.len()));
        for needle in needles {
            self.bytes = replace(&self.bytes, needle.as_bytes(), REPLACEMENT);
        }
        let mut lines: Vec<String> =
            self.bytes.split(|b| *b == b'\n').map(escape).filter(|line| !line.trim().is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(STDERR_LINES));
        StderrTail { lines }
    }
}

fn replace(bytes: &[u8], needle: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(needle.len()).position(|window| window == needle) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by);
        rest = &rest[at + needle.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// One line without anything that could forge log lines or move a terminal's cursor.
fn escape(line: &[u8]) -> String {
    let mut out = String::new();
    let mut length = 0;
    for chunk in line.strip_suffix(b"\r").unwrap_or(line).utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\t' {
                out.push(' ');
            } else if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            length += 1;
            if length == MAX_LINE {
                out.push('…');
                return out;
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
            length += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(bytes: &[u8], secrets: &[&str]) -> Vec<String> {
        let secrets: Vec<Secret> = secrets.iter().map(|s| Secret::new(*s)).collect();
        let mut tail = Tail::default();
        for chunk in bytes.chunks(7) {
            tail.push(chunk);
        }
        tail.finish(secrets.iter()).lines
    }

    #[test]
    fn keeps_the_last_lines_only() {
        let text: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
        let lines = tail(text.as_bytes(), &[]);
        assert_eq!(lines.len(), STDERR_LINES);
        assert_eq!(lines.last().unwrap(), "line 99999");
    }

    #[test]
    fn a_line_without_end_stays_bounded() {
        let lines = tail(&vec![b'x'; 10 * STDERR_BYTES], &[]);
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_LINE + 1), "{}", lines.len());
    }

    #[test]
    fn a_flood_does_not_stay_in_memory() {
        let mut tail = Tail::default();
        let chunk = vec![b'x'; 16 << 10];
        for _ in 0..1000 {
            tail.push(&chunk);
            assert!(tail.bytes.capacity() <= 8 * STDERR_BYTES, "{}", tail.bytes.capacity());
        }
    }

    #[test]
    fn control_characters_and_broken_utf8_are_escaped() {
        assert_eq!(tail(b"a\x1b[31mred\x07\r\n\n  \nb\xffc\n", &[]), ["a\\u{1b}[31mred\\u{7}", "b\\xffc"]);
    }

    #[test]
    fn secrets_are_replaced_whole_and_line_by_line() {
        let key = "-----BEGIN\nabcdef\n-----END";
        assert_eq!(
            tail(
                b"login with hunter2 and hunter2extra\nkey abcdef\n",
                &["hunter2", "hunter2extra", key, "e"]
            ),
            ["login with [secret] and [secret]", "key [secret]"]
        );
    }
}
