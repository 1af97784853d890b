//! What is wrong with a configuration, and how it is shown.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a file.
    File {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The line itself.
        text: String,
        /// How many characters of the line are meant, at least 1.
        width: usize,
    },
    /// In an environment variable of this name.
    Environment(String),
    /// A file as a whole.
    WholeFile(PathBuf),
    /// Nowhere: it is missing, or a default.
    Nowhere,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub location: Location,
    /// The key it is about, `["job", "web", "schedule"]`; empty when it is about no key.
    pub key: Vec<String>,
    /// What is wrong and what was meant, in one line.
    pub message: String,
}

impl Problem {
    /// A problem of a key whose place is found later.
    pub(super) fn of(key: &[&str], message: impl Into<String>) -> Self {
        let key = key.iter().map(|part| (*part).to_owned()).collect();
        Self { location: Location::Nowhere, key, message: message.into() }
    }

    /// Place and message in one line.
    pub fn line(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }

    /// Whether it says no more than that this user may not look at a file.
    pub fn is_denied(&self) -> bool {
        let kinds = ["cannot be looked at", "cannot be read", "opening "];
        kinds.iter().any(|kind| self.message.contains(kind)) && self.message.contains("Permission denied")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::File { file, line, column, text, width } => {
                writeln!(f, "{}:{line}:{column}: {}", file.display(), self.message)?;
                let number = line.to_string();
                // Tabs keep their width above and below, so that the caret stands under what is meant.
                let text: String = text.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
                writeln!(f, "  {number} | {text}")?;
                let gap = " ".repeat(number.len() + 2);
                let indent = " ".repeat(column.saturating_sub(1));
                write!(f, "{gap} | {indent}{}", "^".repeat((*width).max(1)))
            }
            Location::Environment(name) => write!(f, "environment variable {name}: {}", self.message),
            Location::WholeFile(file) => write!(f, "{}: {}", file.display(), self.message),
            Location::Nowhere => f.write_str(&self.message),
        }
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The problems, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// True when there simply is no configuration: no file, and nothing in `conf.d`.
    pub missing: bool,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
