//! Small pieces of HTML. Every text that is not written in this folder goes through [`esc`].

use std::fmt::{self, Display, Write};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::health::{moment, since, words};

/// A value with what means something in HTML escaped, in text and in quoted attributes alike.
pub(super) fn esc<T: Display>(value: T) -> Escaped<T> {
    Escaped(value)
}

pub(super) struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Filter<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Filter<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        // Not allowed in HTML, and direction marks could make a text read as another.
                        c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => {
                            self.0.write_char(' ')?
                        }
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        write!(Filter(f), "{}", self.0)
    }
}

/// A moment in words, with the exact time beside it: `3 h ago` and `2026-11-24 03:05 CET`.
pub(super) fn when(at: DateTime<Utc>, now: DateTime<Utc>, tz: Tz) -> String {
    let machine = at.format("%Y-%m-%dT%H:%M:%SZ");
    let (relative, exact) = (esc(relative(at, now)), esc(exact(at, tz)));
    format!("<time datetime=\"{machine}\">{relative} <span class=\"exact\">{exact}</span></time>")
}

/// A moment in words where there is little room; the exact time shows when it is pointed at.
pub(super) fn ago(at: DateTime<Utc>, now: DateTime<Utc>, tz: Tz) -> String {
    let machine = at.format("%Y-%m-%dT%H:%M:%SZ");
    let (relative, exact) = (esc(relative(at, now)), esc(exact(at, tz)));
    format!("<time datetime=\"{machine}\" title=\"{exact}\">{relative}</time>")
}

fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match at > now {
        true => format!("in {}", words(since(now, at))),
        false => format!("{} ago", words(since(at, now))),
    }
}

fn exact(at: DateTime<Utc>, tz: Tz) -> String {
    format!("{} {}", moment(at, tz), at.with_timezone(&tz).format("%Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_html_is_escaped() {
        assert_eq!(
            esc("<script>alert('x') & \"y\"\u{202e}\u{0}").to_string(),
            "&lt;script&gt;alert(&#39;x&#39;) &amp; &quot;y&quot;  "
        );
    }

    #[test]
    fn moments_are_told_from_now_and_in_the_zone() {
        let at: DateTime<Utc> = "2026-11-24T02:05:00Z".parse().unwrap();
        let html = when(at, at + chrono::TimeDelta::hours(3), chrono_tz::Europe::Berlin);
        assert!(html.contains("3 h ago <span class=\"exact\">2026-11-24 03:05 CET</span>"), "{html}");
        assert!(when(at, at - chrono::TimeDelta::hours(3), chrono_tz::UTC).contains(">in 3 h "));
    }
}
