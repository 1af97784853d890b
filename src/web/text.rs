//! Texts of others (file names, errors, log lines) on their way into a page: what means something in HTML is
//! escaped, what would act on the reader's screen is made visible, and nothing is longer than its room.

use std::borrow::Cow;
use std::fmt::{self, Write};

use askama::filters::Escaper;

/// What every value in a template goes through; `askama.toml` names it.
///
/// The five characters that mean something in HTML become entities, in text and in quoted attributes alike.
/// Control characters other than line break and tab, and characters that are invisible or turn the direction
/// of writing, become their code, `\u{202e}`: they could make a name read as another.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Page;

impl Escaper for Page {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let Some(form) = form_of(c) else { continue };
            dest.write_str(&text[plain..at])?;
            match form {
                Form::Entity(entity) => dest.write_str(entity)?,
                Form::Code => write!(dest, "{}", c.escape_unicode())?,
            }
            plain = at + c.len_utf8();
        }
        dest.write_str(&text[plain..])
    }
}

/// How a character is written that may not stand as it is.
enum Form {
    Entity(&'static str),
    Code,
}

fn form_of(c: char) -> Option<Form> {
    Some(match c {
        '&' => Form::Entity("&amp;"),
        '<' => Form::Entity("&lt;"),
        '>' => Form::Entity("&gt;"),
        '"' => Form::Entity("&quot;"),
        '\'' => Form::Entity("&#39;"),
        '\n' | '\t' => return None,
        c if acts(c) => Form::Code,
        _ => return None,
    })
}

/// Whether a character does something to the text around it instead of showing itself.
pub(super) fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, zero width space, direction marks.
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            // Line and paragraph separators, embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Invisible operators and isolates.
            | '\u{2060}'..='\u{206f}'
            // Byte order mark, annotations, tags.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes a character takes on the page.
fn cost(c: char) -> usize {
    match form_of(c) {
        None => c.len_utf8(),
        Some(Form::Entity(entity)) => entity.len(),
        Some(Form::Code) => c.escape_unicode().len(),
    }
}

/// Bytes a text takes on the page.
pub(super) fn cost_of(text: &str) -> usize {
    text.chars().map(cost).sum()
}

/// The text if it takes at most `room` bytes on the page, entities and codes counted as they are written;
/// else its beginning and `…`. `room` must have place for the `…`.
pub(super) fn clip(text: &str, room: usize) -> Cow<'_, str> {
    let mut used = 0;
    // Where to cut so that the ellipsis fits as well.
    let mut cut = 0;
    for (at, c) in text.char_indices() {
        used += cost(c);
        if used > room {
            return format!("{}…", text[..cut].trim_end()).into();
        }
        if used + '…'.len_utf8() <= room {
            cut = at + c.len_utf8();
        }
    }
    text.into()
}

/// The first line of a text, clipped.
pub(super) fn first_line(text: &str, room: usize) -> Cow<'_, str> {
    clip(text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default(), room)
}

/// The last lines of a text that are at most `lines` and take at most `room` bytes on the page, and how many
/// lines before them were left out. A line alone is cut to `line` bytes.
pub(super) fn tail(text: &str, lines: usize, room: usize, line: usize) -> (String, usize) {
    let all: Vec<&str> = text.lines().collect();
    let mut kept = Vec::new();
    let mut used = 0;
    for text in all.iter().rev().take(lines) {
        let text = clip(text, line);
        used += cost_of(&text) + 1;
        if used > room {
            break;
        }
        kept.push(text);
    }
    let left_out = all.len() - kept.len();
    kept.reverse();
    (kept.join("\n"), left_out)
}

/// A sentence in which pieces between backticks are commands or values, for the template `code.html`.
#[derive(Debug, Clone, PartialEq, Eq, askama::Template)]
#[template(path = "code.html")]
pub(super) struct Marked {
    /// The pieces in order; true for those that stood between backticks.
    parts: Vec<(bool, String)>,
}

/// Takes a sentence apart at its backticks. `command` is how this program is called on this host: the
/// sentences say `agent`.
pub(super) fn marked(text: &str, command: &str, room: usize) -> Marked {
    let text = clip(text, room);
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty()).map(|(n, part)| {
        let is_code = n % 2 == 1;
        // One that names a configuration already stays as it is.
        match part.strip_prefix("agent ").filter(|rest| is_code && !rest.starts_with("--")) {
            Some(rest) => (is_code, format!("{command} {rest}")),
            None => (is_code, part.to_owned()),
        }
    });
    Marked { parts: parts.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        Page.write_escaped_str(&mut out, text).unwrap();
        out
    }

    #[test]
    fn what_means_something_in_html_is_escaped_and_what_acts_is_shown() {
        assert_eq!(
            escaped("<script>alert('x') & \"y\"\u{202e}gpj.exe\u{0}\u{1b}[2J\tz\nnext ü"),
            "&lt;script&gt;alert(&#39;x&#39;) &amp; &quot;y&quot;\\u{202e}gpj.exe\\u{0}\\u{1b}[2J\tz\nnext ü"
        );
    }

    #[test]
    fn a_text_is_clipped_by_what_it_takes_on_the_page() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("longer than it", 10), "longer…");
        assert_eq!(clip("<<<<", 16), "<<<<");
        assert_eq!(clip("<<<<<", 16), "<<<…");
        assert_eq!(clip("üüüü", 7), "üü…");
        for hostile in ["<", "\u{202e}", "\u{0}", "\"", "x", "漢", "\u{e0041}"] {
            let text = hostile.repeat(10_000);
            for room in [10, 100, 1_001] {
                let out = escaped(&clip(&text, room));
                assert!(out.len() <= room && out.ends_with('…'), "{hostile:?} {room}: {}", out.len());
            }
        }
    }

    #[test]
    fn the_end_of_a_log_is_kept_within_its_room() {
        assert_eq!(tail("a\nb\nc\n", 10, 100, 50), ("a\nb\nc".to_owned(), 0));
        assert_eq!(tail("a\nb\nc\n", 2, 100, 50), ("b\nc".to_owned(), 1));
        assert_eq!(tail("aaaa\nbbbb\ncccc\n", 9, 11, 50), ("bbbb\ncccc".to_owned(), 1));
        assert_eq!(tail("long line\n", 9, 100, 8), ("long…".to_owned(), 0));
        assert_eq!(tail("", 9, 100, 8), (String::new(), 0));
    }

    #[test]
    fn a_command_is_written_as_this_host_calls_it() {
        let html = marked("Run `agent ack web` or see `<b>`.", "agent --config /x", 200).to_string();
        assert_eq!(html, "Run <code>agent --config /x ack web</code> or see <code>&lt;b&gt;</code>.");
        let named = marked("`agent --config /y ls 1`", "agent --config /x", 200).to_string();
        assert_eq!(named, "<code>agent --config /y ls 1</code>");
        assert_eq!(marked("the `agent` itself", "other", 200).to_string(), "the <code>agent</code> itself");
    }
}
