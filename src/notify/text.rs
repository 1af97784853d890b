//! Making any text harmless, and laying a message out as plain text.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::body::{Block, Body};

/// Longest error, log line or file name shown, in characters.
const LINE_LIMIT: usize = 400;
/// Width the plain text is wrapped to, where its lines are sentences.
const WIDTH: usize = 76;

/// True for characters that must not reach a header, a terminal or a mail program as they are: controls
/// (so also CR, LF and escape sequences), line separators, and marks that turn the direction of writing
/// or are invisible, with which a file name could pass itself off as another.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// One line of at most `limit` characters: white space becomes a space, hostile characters are written as
/// escapes, and what is cut off is marked by `…`.
pub fn line(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit * 4));
    let mut length = 0;
    let mut space = true;
    for c in text.chars() {
        let piece = if c.is_whitespace() {
            if space {
                continue;
            }
            " ".to_owned()
        } else if is_hostile(c) {
            c.escape_default().to_string()
        } else {
            c.to_string()
        };
        space = c.is_whitespace();
        length += piece.chars().count();
        if length > limit {
            while out.chars().count() >= limit {
                out.pop();
            }
            let kept = out.trim_end().len();
            out.truncate(kept);
            out.push('…');
            return out;
        }
        out.push_str(&piece);
    }
    out.truncate(out.trim_end().len());
    out
}

/// The beginning of a text, at most `limit` bytes, cut between characters.
pub fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text of several lines in which nothing is hostile; its lines and their spaces stay.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if is_hostile(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The lines of a text, each made harmless but with its spaces kept; at most `limit` lines.
pub fn lines(text: &str, limit: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for raw in text.lines().filter(|l| !l.trim().is_empty()) {
        if out.len() == limit {
            out.push("…".to_owned());
            break;
        }
        out.push(verbatim(raw));
    }
    out
}

/// One line with its spaces kept, hostile characters escaped, cut at [`LINE_LIMIT`].
pub fn verbatim(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.trim_end().chars().enumerate() {
        if i == LINE_LIMIT {
            out.push('…');
            break;
        }
        match c {
            '\t' => out.push_str("    "),
            c if is_hostile(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A time for people, in their zone: `Tue 24 Nov 2026, 19:00 CET`.
pub fn moment(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%a %e %b %Y, %H:%M %Z").to_string().replace("  ", " ")
}

/// A length of time for people: `12 s`, `5 min`, `3 h 5 min`, `8 h`, `3 days`; the longer, the coarser.
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let minutes = (seconds + 30) / 60;
    match (seconds, minutes) {
        (..120, _) => format!("{seconds} s"),
        (_, ..120) => format!("{minutes} min"),
        (_, ..360) if !minutes.is_multiple_of(60) => format!("{} h {} min", minutes / 60, minutes % 60),
        (_, ..2880) => format!("{} h", (minutes + 30) / 60),
        _ => format!("{} days", (minutes + 720) / 1440),
    }
}

/// The time from `from` to `to`, zero when the clock went backwards.
pub fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// The message as plain text for a screen of 80 columns.
pub fn render(body: &Body) -> String {
    let mut out = String::new();
    wrap(&mut out, &body.headline, "", "");
    for section in &body.sections {
        out.push('\n');
        if let Some(title) = &section.title {
            out.push_str(&title.to_uppercase());
            out.push('\n');
        }
        for (i, block) in section.blocks.iter().enumerate() {
            // A sentence that introduces a list stands close to it.
            let listed = matches!(block, Block::List(_) | Block::Lines(_) | Block::Facts(_));
            if i > 0 && !(listed && matches!(section.blocks[i - 1], Block::Para(_))) {
                out.push('\n');
            }
            block_text(&mut out, block);
        }
    }
    out.push_str("\n-- \n");
    wrap(&mut out, &body.footer, "", "");
    out
}

fn block_text(out: &mut String, block: &Block) {
    match block {
        Block::Para(text) => wrap(out, text, "  ", "  "),
        Block::Facts(rows) => {
            let width = rows.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
            for (key, value) in rows {
                wrap(out, value, &format!("  {key:width$}  "), &" ".repeat(width + 4));
            }
        }
        Block::List(items) => {
            for item in items {
                wrap(out, item, "  - ", "    ");
            }
        }
        Block::Lines(items) => {
            for item in items {
                out.push_str("  | ");
                out.push_str(item);
                out.push('\n');
            }
        }
        Block::Commands(rows) => {
            for (what, command) in rows {
                wrap(out, what, "  ", "  ");
                out.push_str(&format!("      {command}\n"));
            }
        }
    }
}

/// Sentences in lines of the usual width.
pub fn paragraph(text: &str) -> String {
    let mut out = String::new();
    wrap(&mut out, text, "", "");
    out
}

/// Appends `text` in lines of at most [`WIDTH`] characters; a longer word stands alone.
fn wrap(out: &mut String, text: &str, first: &str, rest: &str) {
    let mut column = first.chars().count();
    let mut fresh = true;
    out.push_str(first);
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let length = word.chars().count();
        if !fresh && column + 1 + length > WIDTH {
            out.push('\n');
            out.push_str(rest);
            column = rest.chars().count();
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        fresh = false;
    }
    out.push('\n');
}
