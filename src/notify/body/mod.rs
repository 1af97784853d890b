//! What a message about a run says, as headline and sections; [`super::text`] and [`super::html`] lay
//! them out.
//!
//! The order is the order of the questions somebody has who is woken by it: what is wrong, what do I
//! still have, what happens by itself, what must I do, and only then the details.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | what a message is made of, and its parts in their order |
//! | `headline` | the subject, and the first sentence |
//! | `answers` | what is wrong, what is still good, what happens next, what to do |
//! | `captured` | what was captured, and the warnings |

mod answers;
mod captured;
mod headline;

pub use self::answers::newest_verified;
pub use self::headline::run_summary;

use chrono::{DateTime, Utc};

use super::facts::{RunFacts, Streak};
use super::message::Kind;
use super::text::{line, verbatim};
use crate::model::Outcome;

/// Lines of the run's log a message shows at most.
pub const SHOWN_LOG_LINES: usize = 20;
/// Files with warnings a message lists at most.
pub const SHOWN_WARNINGS: usize = 10;

/// How a message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Somebody has to act.
    Bad,
    /// Somebody should look.
    Middling,
    /// All is well.
    Good,
    /// For information.
    Plain,
}

/// A message before it is laid out. Every text in it is one harmless line.
#[derive(Debug, Clone)]
pub struct Body {
    /// How it looks.
    pub tone: Tone,
    /// The first sentence.
    pub headline: String,
    /// The rest.
    pub sections: Vec<Section>,
    /// Who sent this, and where to change it.
    pub footer: String,
}

/// A part of a message.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its title; the first part has none.
    pub title: Option<&'static str>,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone)]
pub enum Block {
    /// Sentences.
    Para(String),
    /// Names and values.
    Facts(Vec<(&'static str, String)>),
    /// A list.
    List(Vec<String>),
    /// Lines as they are.
    Lines(Vec<String>),
    /// Purposes, and the commands for them.
    Commands(Vec<(String, String)>),
}

pub(super) fn section(title: &'static str, blocks: Vec<Block>) -> Section {
    Section { title: Some(title), blocks }
}

pub(super) fn para(text: impl Into<String>) -> Block {
    Block::Para(text.into())
}

pub(super) fn footer(host: &str, command: &str) -> String {
    format!(
        "backup-agent on {}. What is told, and to whom: `{} config show`, section notify.",
        line(host, 64),
        line(command, 200)
    )
}

/// The message about one run.
pub fn run(kind: Kind, facts: &RunFacts, streak: Option<&Streak>, now: DateTime<Utc>) -> Body {
    let (tone, headline) = headline::headline(kind, facts, streak, now);
    let mut sections = vec![Section { title: None, blocks: answers::what_happened(kind, facts, streak) }];
    let trouble = kind.is_trouble();
    // What could not be read is what is wrong with an incomplete backup, elsewhere it is an aside.
    let incomplete = trouble && facts.outcome == Outcome::Partial;
    if incomplete {
        sections.extend(captured::warnings(facts));
    }
    if kind == Kind::Recovery {
        sections.extend(answers::what_it_was(facts, streak));
    }
    if trouble || kind == Kind::Recovery {
        sections.push(answers::still_good(kind, facts, now));
    }
    if trouble {
        sections.push(answers::next(facts, now));
        sections.push(answers::to_do(kind, facts));
    }
    if !incomplete {
        sections.extend(captured::warnings(facts));
    }
    if !trouble {
        sections.extend(captured::sizes(facts));
        let look =
            ("Look closer:".to_owned(), format!("{} show {}", line(&facts.command, 200), facts.run_id));
        sections.push(section("More", vec![Block::Commands(vec![look])]));
    }
    if trouble && !facts.log_tail.is_empty() {
        let skip = facts.log_tail.len().saturating_sub(SHOWN_LOG_LINES);
        let tail = facts.log_tail[skip..].iter().map(|l| verbatim(l)).collect();
        sections.push(section("Last log lines", vec![Block::Lines(tail)]));
    }
    if trouble {
        sections.extend(captured::sizes(facts));
    }
    Body { tone, headline, sections, footer: footer(&facts.host, &facts.command) }
}
