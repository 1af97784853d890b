//! What was captured, and the files that made trouble.

use super::{Block, SHOWN_WARNINGS, Section, para, section};
use crate::model::{ByteSize, WarningKind, plural};
use crate::notify::facts::RunFacts;
use crate::notify::text::line;

pub(super) fn stored(facts: &RunFacts) -> u64 {
    facts.components.iter().map(|c| c.stored_bytes).sum()
}

pub(super) fn sizes(facts: &RunFacts) -> Option<Section> {
    if facts.components.is_empty() {
        return None;
    }
    let items = facts
        .components
        .iter()
        .take(30)
        .map(|c| {
            let entries = if c.entries > 0 {
                format!(", {}", plural(c.entries, "entry", "entries"))
            } else {
                String::new()
            };
            format!(
                "{}: {} read, {} stored{entries}",
                c.name,
                ByteSize(c.source_bytes),
                ByteSize(c.stored_bytes)
            )
        })
        .collect();
    Some(section("What was captured", vec![Block::List(items)]))
}

pub(super) fn warnings(facts: &RunFacts) -> Option<Section> {
    let counts = &facts.warning_counts;
    if counts.total() == 0 {
        return None;
    }
    let told: Vec<String> = WarningKind::COUNTED
        .into_iter()
        .filter(|k| counts.get(*k) > 0)
        .map(|k| format!("{} {k}", counts.get(k)))
        .collect();
    let mut blocks = vec![para(format!("{}: {}.", plural(counts.total(), "file", "files"), told.join(", ")))];
    // Unreadable files are what makes a backup incomplete; they must not be hidden behind the others.
    let mut listed: Vec<_> =
        facts.first_warnings.iter().filter(|w| WarningKind::COUNTED.contains(&w.kind)).collect();
    listed.sort_by_key(|w| std::cmp::Reverse(w.kind));
    let mut items: Vec<String> = listed
        .iter()
        .take(SHOWN_WARNINGS)
        .map(|w| format!("{} {} ({})", w.kind, line(&w.path.display(), 200), line(&w.detail, 120)))
        .collect();
    let rest = counts.total().saturating_sub(items.len() as u64);
    if rest > 0 && !items.is_empty() {
        items.push(format!("and {rest} more"));
    }
    if !items.is_empty() {
        blocks.push(Block::List(items));
    }
    Some(section("Warnings", blocks))
}
