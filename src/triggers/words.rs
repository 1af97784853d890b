//! A line of shell as simple commands: enough to see which programs it starts, not to run it.
//!
//! Quotes, escapes, comments and redirections are read as sh(1) reads them; `;`, `&`, `|`, brackets and line
//! ends separate commands. Variables and substitutions stay as they stand.

/// The simple commands of a text, each as its words.
pub(super) fn commands(text: &str) -> Vec<Vec<String>> {
    let mut reader = Reader::default();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(escaped) => reader.push(escaped),
            },
            '\'' => {
                reader.begin();
                reader.extend(chars.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                reader.begin();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    // Within double quotes a backslash escapes these only.
                    match (c, chars.peek()) {
                        ('\\', Some('"' | '\\' | '$' | '`')) => reader.extend(chars.next()),
                        _ => reader.push(c),
                    }
                }
            }
            '#' if reader.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '>' | '<' => {
                // The number of a descriptor belongs to the redirection.
                if reader.word.as_ref().is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit())) {
                    reader.word = None;
                }
                reader.end_word();
                while chars.next_if(|c| matches!(c, '>' | '<' | '&' | '|' | '-')).is_some() {}
                reader.drop_next = true;
            }
            '&' if chars.peek() == Some(&'>') => {}
            ';' | '&' | '|' | '(' | ')' | '`' | '\n' => reader.end_command(),
            c if c.is_whitespace() => reader.end_word(),
            c => reader.push(c),
        }
    }
    reader.end_command();
    reader.commands
}

#[derive(Default)]
struct Reader {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
    /// The next word is where output goes.
    drop_next: bool,
}

impl Reader {
    fn begin(&mut self) -> &mut String {
        self.word.get_or_insert_default()
    }

    fn push(&mut self, c: char) {
        self.begin().push(c);
    }

    fn extend(&mut self, chars: impl IntoIterator<Item = char>) {
        self.begin().extend(chars);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if !std::mem::take(&mut self.drop_next) {
            self.words.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.drop_next = false;
        if !self.words.is_empty() {
            self.commands.push(std::mem::take(&mut self.words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_apart_as_a_shell_takes_it() {
        for (text, wanted) in [
            ("a b  c", "a b c"),
            ("cd /opt && ./run.sh >> /var/log/x 2>&1", "cd /opt|./run.sh"),
            ("a>b;c 2>/dev/null|d &> e &", "a|c|d"),
            ("sh -c \"a 'b' \\\"c\\\" && d\"", "sh -c a 'b' \"c\" && d"),
            ("x 'it''s' a\\ b # c d", "x its a b"),
            ("if [ -x p ]; then p; fi", "if [ -x p ]|then p|fi"),
            ("( cd / && run-parts /etc/cron.daily ) <<EOF", "cd /|run-parts /etc/cron.daily"),
            ("a \\\n b\nc", "a b|c"),
            ("echo $(date +%F) `id`", "echo $|date +%F|id"),
            ("a '' b", "a  b"),
            ("unfinished 'quote", "unfinished quote"),
        ] {
            let found: Vec<String> = commands(text).iter().map(|words| words.join(" ")).collect();
            assert_eq!(found.join("|"), wanted, "{text}");
        }
    }
}
