//! `.env` files as Laravel reads them (phpdotenv 5), as far as a value can be known without running the
//! application.
//!
//! Read: `KEY=value`, `export KEY=value`, comments, `'single'` quotes (nothing is special in them),
//! `"double"` quotes (escapes, line ends), unquoted values (ended by white space or `#`), and `${KEY}` of a
//! key that stands earlier in the file; any other `${…}` stays as it is. The last of several lines with the
//! same key counts.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// The keys and values of a `.env` file. `Debug` shows the keys only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Dotenv(BTreeMap<String, String>);

/// What is wrong with a `.env` file. It never quotes the line, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct DotenvError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

impl Dotenv {
    /// Reads the text of a `.env` file.
    pub fn parse(text: &str) -> Result<Self, DotenvError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut parser = Parser { chars: text.chars().peekable(), line: 1, values: BTreeMap::new() };
        while parser.chars.peek().is_some() {
            parser.entry()?;
        }
        Ok(Self(parser.values))
    }

    /// The value of a key as it stands, or `None` when the file does not set it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value as Laravel's `env()` gives it to the application: `null` and `empty` mean nothing, and so
    /// does a value of no characters.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| {
            !["", "null", "(null)", "empty", "(empty)"].contains(&value.to_ascii_lowercase().as_str())
        })
    }
}

impl fmt::Debug for Dotenv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    values: BTreeMap<String, String>,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    fn error<T>(&self, line: usize, problem: &'static str) -> Result<T, DotenvError> {
        Err(DotenvError { line, problem })
    }

    fn skip_blanks(&mut self) {
        while self.chars.peek().is_some_and(|c| is_blank(*c)) {
            self.next();
        }
    }

    fn skip_line(&mut self) {
        while let Some(c) = self.next() {
            if c == '\n' {
                return;
            }
        }
    }

    fn entry(&mut self) -> Result<(), DotenvError> {
        let line = self.line;
        self.skip_blanks();
        let mut key = String::new();
        loop {
            match self.chars.peek() {
                None | Some('\n') => {
                    self.next();
                    // A key without `=` is a variable without a value: nothing to know about it.
                    return Ok(());
                }
                Some('#') if key.is_empty() => {
                    self.skip_line();
                    return Ok(());
                }
                Some('=') => {
                    self.next();
                    break;
                }
                Some(_) => key.extend(self.next()),
            }
        }
        let key = key.trim();
        let key = key.strip_prefix("export").filter(|rest| rest.starts_with(is_blank)).map_or(key, str::trim);
        let key = key.trim_matches(['"', '\'']);
        if key.is_empty() || !key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.') {
            return self.error(line, "the name before = is not letters, digits, _ and .");
        }
        self.skip_blanks();
        let value = match self.chars.peek() {
            Some('\'') => self.single_quoted()?,
            Some('"') => self.double_quoted()?,
            _ => self.unquoted(),
        };
        self.rest_of_line()?;
        self.values.insert(key.to_owned(), value);
        Ok(())
    }

    fn single_quoted(&mut self) -> Result<String, DotenvError> {
        let line = self.line;
        self.next();
        let mut value = String::new();
        while let Some(c) = self.next() {
            if c == '\'' {
                return Ok(value);
            }
            value.push(c);
        }
        self.error(line, "a single quote is not closed")
    }

    fn double_quoted(&mut self) -> Result<String, DotenvError> {
        let line = self.line;
        self.next();
        let mut value = String::new();
        while let Some(c) = self.next() {
            match c {
                '"' => return Ok(value),
                '\\' => match self.next() {
                    Some(c @ ('"' | '\\' | '$')) => value.push(c),
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some('f') => value.push('\u{c}'),
                    Some('v') => value.push('\u{b}'),
                    _ => return self.error(self.line, "an unknown escape sequence in double quotes"),
                },
                '$' => self.variable(&mut value),
                c => value.push(c),
            }
        }
        self.error(line, "a double quote is not closed")
    }

    fn unquoted(&mut self) -> String {
        let mut value = String::new();
        while let Some(c) = self.chars.peek().copied() {
            if c == '#' || c == '\n' || is_blank(c) {
                break;
            }
            self.next();
            if c == '$' { self.variable(&mut value) } else { value.push(c) }
        }
        value
    }

    /// After a `$`: the value of `{KEY}` when it is known, else the text as it stands.
    fn variable(&mut self, value: &mut String) {
        let mut ahead = self.chars.clone();
        let mut key = String::new();
        if ahead.next() == Some('{') {
            for c in ahead.by_ref() {
                match c {
                    '}' => {
                        if let Some(known) = self.values.get(&key) {
                            value.push_str(known);
                            self.chars = ahead;
                            return;
                        }
                        break;
                    }
                    c if c.is_ascii_alphanumeric() || c == '_' || c == '.' => key.push(c),
                    _ => break,
                }
            }
        }
        value.push('$');
    }

    fn rest_of_line(&mut self) -> Result<(), DotenvError> {
        self.skip_blanks();
        match self.chars.peek() {
            None | Some('\n') => {
                self.next();
                Ok(())
            }
            Some('#') => {
                self.skip_line();
                Ok(())
            }
            Some(_) => {
                self.error(self.line, "text after the end of the value: values with spaces stand in quotes")
            }
        }
    }
}

/// White space that does not end a line; `\r` is part of a line end of Windows.
fn is_blank(c: char) -> bool {
    c != '\n' && c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(text: &str, key: &str) -> Option<String> {
        Dotenv::parse(text).unwrap().get(key).map(str::to_owned)
    }

    #[test]
    fn values_are_read_as_laravel_reads_them() {
        for (line, value) in [
            ("K=plain", "plain"),
            ("K = spaced ", "spaced"),
            ("export K=exported", "exported"),
            ("export\tK=exported", "exported"),
            ("K=", ""),
            ("K=   # nothing", ""),
            ("K=ab#cd", "ab"),
            ("K=ab # comment", "ab"),
            ("K=\"ab#cd\" # comment", "ab#cd"),
            ("K='ab#cd'", "ab#cd"),
            ("K='a\\n\"$b'", "a\\n\"$b"),
            (r#"K="q\"q b\\b d\$d n\nn""#, "q\"q b\\b d$d n\nn"),
            (r"K=back\slash", r"back\slash"),
            ("K=a=b==", "a=b=="),
            ("K=it's", "it's"),
            ("K=\"two\nlines\"", "two\nlines"),
            ("K=win\r\nL=1", "win"),
            ("\u{feff}K=bom", "bom"),
            ("K=1\nK=2", "2"),
            ("K=pässwörd", "pässwörd"),
        ] {
            assert_eq!(get(line, "K").as_deref(), Some(value), "{line:?}");
        }
    }

    #[test]
    fn earlier_keys_are_filled_in_outside_single_quotes() {
        let text = "A=one\nB=${A}two\nC=\"${A} and ${LATER}\"\nD='${A}'\nE=$A${}\nLATER=x";
        assert_eq!(get(text, "B").unwrap(), "onetwo");
        assert_eq!(get(text, "C").unwrap(), "one and ${LATER}");
        assert_eq!(get(text, "D").unwrap(), "${A}");
        assert_eq!(get(text, "E").unwrap(), "$A${}");
    }

    #[test]
    fn comments_blank_lines_and_bare_keys_are_passed_over() {
        let text = "# K=1\n\n   # more\n  \nBARE\nK=2";
        assert_eq!(get(text, "K").unwrap(), "2");
        assert_eq!(get(text, "BARE"), None);
    }

    #[test]
    fn mistakes_are_told_by_line_without_the_text_of_the_line() {
        for (text, line) in [
            ("A=1\nK=hunter2 extra", 2),
            ("A=1\n\nK=\"hunter2", 3),
            ("K='hunter2", 1),
            ("K=\"hunter2\\q\"", 1),
            ("hun ter2=x", 1),
            ("=hunter2", 1),
        ] {
            let error = Dotenv::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("ter2"), "{error}");
        }
    }

    #[test]
    fn null_and_empty_mean_no_setting() {
        let env = Dotenv::parse("A=null\nB=(empty)\nC=\nD=\"NULL\"\nE=0").unwrap();
        assert_eq!(
            ["A", "B", "C", "D", "E", "F"].map(|k| env.setting(k)),
            [None, None, None, None, Some("0"), None]
        );
    }

    #[test]
    fn debug_shows_no_values() {
        let text = format!("{:?}", Dotenv::parse("DB_PASSWORD=hunter2").unwrap());
        assert!(text.contains("DB_PASSWORD") && !text.contains("hunter2"), "{text}");
    }
}
