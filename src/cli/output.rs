//! Printing: to standard output at once, so that a closed pipe (`| head`) is no error.

use std::io::{self, IsTerminal, Write};

/// Prints an answer.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    // A reader that went away has what it wanted.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a value as JSON with line breaks.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints an error as one chain of reasons.
pub fn error(error: &anyhow::Error) {
    let label = if colour_on_stderr() { "\u{1b}[1;31merror:\u{1b}[0m" } else { "error:" };
    let _ = writeln!(io::stderr(), "{label} {error:#}");
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
    !std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// A word in the colour of what it says: good green, doubtful yellow, bad red.
pub fn tinted(word: &str, width: usize) -> String {
    let padded = format!("{word:width$}");
    if !colour_on_stdout() {
        return padded;
    }
    let colour = match word {
        "success" | "verified" | "ok" | "good" | "delivered" => "32",
        "warning" | "pending" | "degraded" | "partial" | "complete" | "running" | "paused" | "expired"
        | "superseded" => "33",
        "failure" | "interrupted" | "corrupt" | "overdue" | "failed" | "never ran" => "31",
        _ => return padded,
    };
    format!("\u{1b}[{colour}m{padded}\u{1b}[0m")
}

/// Lines of columns, each as wide as its widest cell. The last column is not padded.
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
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row.get(column).map_or(0, |c| c.chars().count()));
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        let head: Vec<String> = self.head.iter().map(|h| h.to_uppercase()).collect();
        for (is_head, row) in std::iter::once((true, &head)).chain(self.rows.iter().map(|r| (false, r))) {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(column, cell)| match tint {
                    Some(tinted_column) if tinted_column == column && !is_head => {
                        tinted(cell, widths[column])
                    }
                    _ => format!("{cell:width$}", width = widths[column]),
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}
