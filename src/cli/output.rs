//! Printing: to standard output at once, so that a closed pipe (`| head`) is no error.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const PLAIN: &str = "\u{1b}[0m";
/// What the program itself writes to colour words.
const OWN: [&str; 4] = [RED, GREEN, YELLOW, PLAIN];

/// Prints an answer.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    // A reader that went away has what it wanted.
    let _ = out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush());
}

/// A text that can do nothing to a terminal but colour words. Names of files and what programs say can hold
/// anything, and terminals obey what they are shown.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let harms = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(harms) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(harms) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(own) = OWN.iter().find(|own| rest.starts_with(**own)) {
            out.push_str(own);
            rest = &rest[own.len()..];
        } else if let Some(c) = rest.chars().next() {
            out.extend(c.escape_default());
            rest = &rest[c.len_utf8()..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Prints a value as JSON with line breaks.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints an error as one chain of reasons.
pub fn error(error: &anyhow::Error) {
    error_text(&format!("{error:#}"));
}

/// Prints what went wrong.
pub fn error_text(text: &str) {
    let label = if colour_on_stderr() { format!("{RED}error:{PLAIN}") } else { "error:".to_owned() };
    let _ = writeln!(io::stderr(), "{label} {}", harmless(text));
}

/// Prints what a person should know beside the answer.
pub fn warn(text: &str) {
    let label = if colour_on_stderr() { format!("{YELLOW}warning:{PLAIN}") } else { "warning:".to_owned() };
    let _ = writeln!(io::stderr(), "{label} {}", harmless(text));
}

/// Whether standard error is a terminal that wants colour.
pub fn colour_on_stderr() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

/// Whether standard output is a terminal that wants colour.
pub fn colour_on_stdout() -> bool {
    io::stdout().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A word in the colour of what it says: good green, doubtful yellow, bad red.
pub fn tinted(word: &str, width: usize) -> String {
    let padded = format!("{word:width$}");
    if !colour_on_stdout() {
        return padded;
    }
    let colour = match word.split_once(", ").map_or(word, |(word, _)| word) {
        "success" | "verified" | "ok" | "good" | "delivered" | "stays" => GREEN,
        "warning" | "unknown" | "note:" | "pending" | "degraded" | "partial" | "complete" | "running"
        | "paused" | "expired" | "superseded" | "dropped" | "waits" | "copying" => YELLOW,
        "critical" | "failure" | "interrupted" | "corrupt" | "overdue" | "failed" | "refused"
        | "never ran" | "goes" | "stopped" => RED,
        _ => return padded,
    };
    format!("{colour}{padded}{PLAIN}")
}

/// How long something took: to a tenth of a second while that matters.
pub fn took(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        crate::health::words(duration)
    }
}

/// The width of the terminal on standard output; none when it is no terminal.
pub fn terminal_width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= 40)
}

/// A text cut to so many characters, with an ellipsis where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Lines of columns, each as wide as its widest cell. The last column is not padded; on a terminal it is cut
/// where the line ends.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a line.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// True without lines.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, a line break at its end. The cells of column `tint` are coloured by what they say.
    pub fn render(&self, tint: Option<usize>) -> String {
        self.render_within(tint, terminal_width())
    }

    fn render_within(&self, tint: Option<usize>, room: Option<usize>) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row.get(column).map_or(0, |c| c.chars().count()));
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        if let (Some(room), Some((last, others))) = (room, widths.split_last_mut()) {
            let taken = others.iter().sum::<usize>() + 2 * others.len();
            // A column too narrow to say anything is better broken by the terminal.
            if room >= taken + 20 {
                *last = (*last).min(room - taken);
            }
        }
        let mut text = String::new();
        let head: Vec<String> = self.head.iter().map(|h| h.to_uppercase()).collect();
        for (is_head, row) in std::iter::once((true, &head)).chain(self.rows.iter().map(|r| (false, r))) {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(column, cell)| {
                    let (cell, width) = (cut(cell, widths[column]), widths[column]);
                    if tint == Some(column) && !is_head {
                        tinted(&cell, width)
                    } else {
                        format!("{cell:width$}")
                    }
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() {
        let mut table = Table::new(&["run", "what"]);
        table.row(vec!["größer".to_owned(), "a".to_owned()]);
        table.row(vec!["b".to_owned(), String::new()]);
        assert_eq!(table.render_within(None, None), "RUN     WHAT\ngrößer  a\nb\n");
    }

    #[test]
    fn the_last_column_is_cut_where_the_terminal_ends() {
        let mut table = Table::new(&["run", "what"]);
        table.row(vec!["20261124".to_owned(), "x".repeat(100)]);
        let line = |room| table.render_within(None, Some(room)).lines().nth(1).unwrap().to_owned();
        assert_eq!(line(40), format!("20261124  {}…", "x".repeat(29)));
        assert_eq!(line(200), format!("20261124  {}", "x".repeat(100)));
        assert_eq!(line(15), format!("20261124  {}", "x".repeat(100)), "nothing would be left of it");
    }

    #[test]
    fn what_is_printed_can_do_nothing_to_a_terminal_but_colour_words() {
        assert_eq!(harmless("größer\n\tb"), "größer\n\tb");
        assert_eq!(harmless("a\r\nb\u{1b}]0;title\u{7}"), "a\\r\nb\\u{1b}]0;title\\u{7}");
        let own = format!("{GREEN}good{PLAIN}\u{9b}31m");
        assert_eq!(harmless(&own), format!("{GREEN}good{PLAIN}\\u{{9b}}31m"));
    }

    #[test]
    fn short_times_are_told_to_a_tenth() {
        assert_eq!(took(Duration::from_millis(340)), "0.3 s");
        assert_eq!(took(Duration::from_secs(75)), "1 min 15 s");
    }
}
