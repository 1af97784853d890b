//! A message for the small screen of somebody who is not at a desk: what is wrong, what is still good, what
//! happens by itself, what to do. No log, no sizes, no lists of files; the lines are not wrapped.

use super::body::{Block, Body};
use super::text;

/// Longest text in bytes. A message of more than 4,096 becomes an attachment at ntfy, and a notice that it
/// comes late must still fit.
pub const LIMIT: usize = 3500;

/// Sections that are for a desk.
const LEFT_OUT: [&str; 4] = ["Last log lines", "What was captured", "Warnings", "More"];
/// Lines of a section that are shown.
const SHOWN_LINES: usize = 6;

/// Commands of a section that are shown: the nearest ones.
const SHOWN_COMMANDS: usize = 2;

/// The message as text.
pub fn render(body: &Body) -> String {
    let mut out = body.headline.clone();
    for section in &body.sections {
        if section.title.is_some_and(|title| LEFT_OUT.contains(&title)) {
            continue;
        }
        out.push_str("\n\n");
        if let Some(title) = section.title {
            out.push_str(&format!("{}\n", title.to_uppercase()));
        }
        let blocks: Vec<String> = section.blocks.iter().map(block).filter(|b| !b.is_empty()).collect();
        out.push_str(&blocks.join("\n"));
    }
    fit(&out)
}

fn block(block: &Block) -> String {
    let shown = |lines: Vec<String>| {
        let rest = lines.len().saturating_sub(SHOWN_LINES);
        let mut out: Vec<String> = lines.into_iter().take(SHOWN_LINES).collect();
        if rest > 0 {
            out.push(format!("… and {rest} more"));
        }
        out.join("\n")
    };
    match block {
        Block::Para(text) => text.replace('`', ""),
        Block::Facts(rows) => {
            rows.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
        }
        Block::List(items) => shown(items.iter().map(|item| format!("• {item}")).collect()),
        Block::Lines(lines) => shown(lines.iter().map(|line| line.trim_end().to_owned()).collect()),
        Block::Commands(rows) => {
            let shown = rows.iter().take(SHOWN_COMMANDS);
            shown.map(|(what, command)| format!("{what} {command}")).collect::<Vec<_>>().join("\n")
        }
    }
}

/// A text that is short enough; one that is not ends with its last whole line and a mark.
pub fn fit(text: &str) -> String {
    if text.len() <= LIMIT {
        return text.to_owned();
    }
    let kept = text::cut(text, LIMIT - 4);
    let kept = kept.rfind('\n').map_or(kept, |end| &kept[..end]);
    format!("{}\n…", kept.trim_end())
}
