//! The text of a crontab as cron reads it, and whether cron would refuse it.

use chrono_tz::Tz;

use super::when::When;
use crate::schedule::Schedule;

/// Whose crontab it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `/etc/crontab`, `/etc/cron.d`: a user stands before the command.
    System,
    /// A user's own.
    User,
}

/// One line that starts something.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its line, from 1.
    pub(super) line: usize,
    pub(super) when: When,
    pub(super) user: Option<String>,
    /// What the shell gets: without what follows an unescaped `%`.
    pub(super) command: String,
    /// The line as it stands there.
    pub(super) text: String,
}

/// What a crontab holds.
#[derive(Debug, Default)]
pub(super) struct Crontab {
    pub(super) entries: Vec<Entry>,
    /// Why cron passes the file over.
    pub(super) refused: Option<String>,
}

/// Reads a crontab. `zone` is that of the host; a `CRON_TZ` in it counts where cron knows it.
pub(super) fn parse(text: &str, form: Form, zone: Tz, knows_cron_tz: bool) -> Crontab {
    let mut found = Crontab::default();
    let mut zone = zone;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = variable(line) {
            if name == "CRON_TZ" && knows_cron_tz {
                zone = value.parse().unwrap_or(zone);
            }
            continue;
        }
        let number = index + 1;
        let Some((schedule, rest)) = split_schedule(line) else {
            found.refused.get_or_insert(format!("line {number} is no crontab line"));
            continue;
        };
        let when = match schedule {
            "@reboot" => When::Boot,
            // A minute may begin with `-` in some crons: it is not logged.
            _ => match Schedule::parse(schedule.trim_start_matches('-')) {
                Ok(schedule) => When::Cron(schedule, zone),
                Err(e) => When::Sometime(format!("at a time that is not understood ({e})")),
            },
        };
        let (user, command) = match form {
            Form::User => (None, rest),
            Form::System => match word(rest) {
                (user, command) if user.contains('/') || command.is_empty() => {
                    found.refused.get_or_insert(format!(
                        "line {number} names no user before the command, as lines here must"
                    ));
                    (None, rest)
                }
                (user, command) => (Some(user.to_owned()), command),
            },
        };
        found.entries.push(Entry {
            line: number,
            when,
            user,
            command: before_percent(command),
            text: line.trim_end().to_owned(),
        });
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.refused.get_or_insert("its last line does not end with a line break".to_owned());
    }
    found
}

/// `NAME = value`, with or without quotes.
fn variable(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let bare =
        |text: &'_ str| -> Option<usize> { text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) };
    let name = name.trim().trim_matches(['"', '\'']);
    let is_name = !name.is_empty() && bare(name).is_none() && !name.starts_with(|c: char| c.is_ascii_digit());
    is_name.then(|| (name, value.trim().trim_matches(['"', '\''])))
}

/// The first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start_matches([' ', '\t']))
}

/// The five fields or the word with `@`, and what follows.
fn split_schedule(line: &str) -> Option<(&str, &str)> {
    let mut rest = line;
    let fields = if line.starts_with('@') { 1 } else { 5 };
    for _ in 0..fields {
        let (field, after) = word(rest);
        if field.is_empty() {
            return None;
        }
        rest = after;
    }
    let schedule = line[..line.len() - rest.len()].trim_end_matches([' ', '\t']);
    (!rest.is_empty()).then_some((schedule, rest))
}

/// The command up to its first `%`, which ends it; `\%` is a `%`.
fn before_percent(command: &str) -> String {
    let mut out = String::with_capacity(command.len());
    let mut chars = command.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('%')) => out.extend(chars.next()),
            ('%', _) => break,
            _ => out.push(c),
        }
    }
    out
}

/// One line of an anacrontab: every how many days, the name, the command.
pub(super) fn anacron(text: &str) -> Vec<Entry> {
    let mut found = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') || variable(line).is_some() {
            continue;
        }
        let (period, rest) = word(line);
        let (_delay, rest) = word(rest);
        let (_name, command) = word(rest);
        if command.is_empty() {
            continue;
        }
        let often = match period {
            "1" | "@daily" => "once a day".to_owned(),
            "7" | "@weekly" => "once a week".to_owned(),
            "@monthly" => "once a month".to_owned(),
            days => format!("every {days} days"),
        };
        found.push(Entry {
            line: index + 1,
            when: When::Sometime(format!("{often}, by anacron")),
            user: None,
            command: command.to_owned(),
            text: line.to_owned(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Europe::Berlin;

    fn lines(text: &str, form: Form) -> Vec<String> {
        let found = parse(text, form, Berlin, false);
        assert_eq!(found.refused, None, "{text}");
        found
            .entries
            .iter()
            .map(|e| {
                let user = e.user.as_deref().unwrap_or("-");
                format!("{} {} {user} {}", e.line, e.when.words(Berlin), e.command)
            })
            .collect()
    }

    #[test]
    fn lines_variables_and_comments_are_told_apart() {
        let text = "# m h dom mon dow\nSHELL=/bin/sh\n MAILTO = \"a@b\"\n\n0 3 * * *\troot  run.sh --x=1\n@daily root a\n  @reboot root b\n";
        assert_eq!(
            lines(text, Form::System),
            ["5 0 3 * * * root run.sh --x=1", "6 @daily root a", "7 at each start of the machine root b"]
        );
        assert_eq!(
            lines("0 3,11 * * mon-fri x=1 run.sh\n", Form::User),
            ["1 0 3,11 * * mon-fri - x=1 run.sh"]
        );
    }

    #[test]
    fn a_percent_sign_ends_the_command_unless_it_is_escaped() {
        assert_eq!(
            lines("0 3 * * * run.sh $(date +\\%F) %stdin\n", Form::User),
            ["1 0 3 * * * - run.sh $(date +%F) "]
        );
    }

    #[test]
    fn what_cron_refuses_is_told_and_the_lines_are_read_nevertheless() {
        for (text, why) in [
            ("0 3 * * * root run.sh", "its last line does not end with a line break"),
            ("0 3 * * * /opt/run.sh\n", "line 1 names no user before the command, as lines here must"),
            ("0 3 * * * run.sh\n", "line 1 names no user before the command, as lines here must"),
            ("\n0 3 * *\n", "line 2 is no crontab line"),
        ] {
            let found = parse(text, Form::System, Berlin, false);
            assert_eq!(found.refused.as_deref(), Some(why), "{text:?}");
        }
        let found = parse("0 3 * * * /opt/run.sh --now\n", Form::System, Berlin, false);
        assert_eq!(found.entries[0].command, "/opt/run.sh --now");
        let odd = parse("0 25 * * * root run.sh\n", Form::System, Berlin, false);
        assert!(odd.entries[0].when.words(Berlin).contains("hour 25"), "{odd:?}");
    }

    #[test]
    fn a_zone_of_its_own_counts_where_cron_knows_it() {
        let text = "CRON_TZ=UTC\n0 3 * * * run.sh\n";
        let words = |knows| parse(text, Form::User, Berlin, knows).entries[0].when.words(Berlin);
        assert_eq!((words(true).as_str(), words(false).as_str()), ("0 3 * * * (UTC)", "0 3 * * *"));
    }

    #[test]
    fn lines_of_anacron_have_a_period_a_delay_and_a_name() {
        let text =
            "SHELL=/bin/sh\n1\t5\tcron.daily\trun-parts /etc/cron.daily\n@monthly 15 x nice run.sh\n7 8\n";
        let found: Vec<String> = anacron(text)
            .iter()
            .map(|e| format!("{} {}: {}", e.line, e.when.words(Berlin), e.command))
            .collect();
        assert_eq!(
            found,
            [
                "2 once a day, by anacron: run-parts /etc/cron.daily",
                "3 once a month, by anacron: nice run.sh"
            ]
        );
    }

    #[test]
    fn hostile_texts_are_read_without_harm() {
        for text in ["\u{0}\u{1}%%%\\", "@", "@@ x", "* * * * *", "= = =", "\\%", "٣ ٣ * * * root x\n"] {
            let _ = parse(text, Form::System, Berlin, true);
            let _ = anacron(text);
        }
    }
}
