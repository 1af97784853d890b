#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> RunLog {
        RunLog::new(&RunId::generate("2026-11-24T18:00:00Z".parse().unwrap()))
    }

    /// Lines without their time.
    fn bare(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
        let time = "2026-11-24 19:00:00+01:00 ".len();
        lines.into_iter().map(|line| line.as_ref()[time..].trim_start().to_owned()).collect()
    }

    fn subscribe() -> tracing::subscriber::DefaultGuard {
        tracing_subscriber::registry().with(RunLayer.with_filter(RUN_LEVEL)).set_default()
    }

    #[test]
    fn events_inside_the_span_of_a_run_go_to_its_log_and_no_other() {
        let _guard = subscribe();
        let (one, two) = (log(), log());
        tracing::info!("before");
        one.span().in_scope(|| {
            tracing::info!(files = 3, name = "a", "walked");
            tracing::debug!("too fine");
            tracing::info_span!("inner").in_scope(|| tracing::warn!("deep"));
        });
        two.span().in_scope(|| tracing::error!("other"));
        assert_eq!(bare(one.tail(10)), ["INFO walked files=3 name=\"a\"", "WARN deep"]);
        assert_eq!(bare(two.tail(10)), ["ERROR other"]);
        assert!(one.text().contains(" WARN deep\n"), "{}", one.text());
    }

    #[test]
    fn a_span_entered_on_another_thread_reaches_the_log() {
        let _guard = subscribe();
        let log = log();
        let span = log.span();
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        std::thread::spawn(move || {
            tracing::dispatcher::with_default(&dispatch, || span.in_scope(|| tracing::info!("from afar")));
        })
        .join()
        .unwrap();
        assert_eq!(bare(log.tail(1)), ["INFO from afar"]);
    }

    #[test]
    fn a_long_log_keeps_its_beginning_and_its_end_and_says_what_is_missing() {
        let log = log();
        (0..5000).for_each(|n| log.push(Level::INFO, &format!("line {n}")));
        let text = log.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 500 + 1 + 1500);
        assert!(lines[0].ends_with(" line 0") && lines[499].ends_with(" line 499"));
        assert_eq!(lines[500], "… 3000 lines left out");
        assert!(lines[501].ends_with(" line 3500") && lines[2000].ends_with(" line 4999"));
        assert_eq!(bare(log.tail(2)), ["INFO line 4998", "INFO line 4999"]);
    }

    #[test]
    fn a_log_of_huge_lines_stays_within_its_bytes() {
        let log = log();
        (0..2000).for_each(|_| log.push(Level::INFO, &"ä".repeat(100_000)));
        assert!(log.text().len() <= (256 << 10) + 4096, "{}", log.text().len());
        assert!(log.tail(1)[0].ends_with('…'));
    }

    #[test]
    fn line_breaks_and_control_characters_cannot_forge_an_entry() {
        let log = log();
        log.push(Level::ERROR, "stderr:\n2026-11-24 19:00:00 INFO all good\x1b[2J\r\n");
        let lines = log.tail(10);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("ERROR 2026-11-24 19:00:00 INFO all good\\u{1b}[2J"), "{lines:?}");
    }

    /// What is written when `f` logs.
    fn written(format: Format, level: &str, colour: bool, f: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = file.reopen().unwrap();
        let subscriber = subscriber(format, Some(level), colour, writer).unwrap();
        tracing::subscriber::with_default(subscriber, f);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn lines_for_people_and_for_programs_carry_the_run() {
        let log = log();
        let text =
            written(Format::Text, "info", false, || log.span().in_scope(|| tracing::warn!(n = 1, "slow")));
        assert!(text.contains(" WARN run{run=\"20261124T180000Z-") && text.ends_with("slow n=1\n"), "{text}");
        let json =
            written(Format::Json, "info", true, || log.span().in_scope(|| tracing::info!(n = 1, "fine")));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&json["message"], &json["n"], &json["level"]),
            (&"fine".into(), &1.into(), &"INFO".into())
        );
        assert!(DateTime::parse_from_rfc3339(json["timestamp"].as_str().unwrap()).is_ok(), "{json}");
        assert!(json["span"]["run"].as_str().unwrap().starts_with("20261124T180000Z-"), "{json}");
        assert_eq!(log.tail(9).len(), 2);
    }

    #[test]
    fn colour_is_only_where_it_was_asked_for_and_a_quiet_terminal_keeps_the_log_of_the_run() {
        let shout = || tracing::error!("red");
        assert!(written(Format::Text, "info", true, shout).contains('\x1b'));
        assert!(!written(Format::Text, "info", false, shout).contains('\x1b'));
        let log = log();
        assert_eq!(written(Format::Text, "off", false, || log.span().in_scope(shout)), "");
        assert_eq!(bare(log.tail(1)), ["ERROR red"]);
    }

    #[test]
    fn a_level_sets_this_program_and_leaves_others_at_warnings() {
        assert_eq!(filter("debug").unwrap().to_string(), "backup_agent=debug,agent=debug,warn");
        assert_eq!(filter("off").unwrap().to_string(), "off");
        assert_eq!(filter("backup_agent=trace").unwrap().to_string(), "backup_agent=trace");
        for bad in ["loud=very", "", "a=b=c"] {
            let error = filter(bad).unwrap_err().to_string();
            assert!(error.contains("give error, warn, info"), "{bad:?}: {error}");
        }
    }
}
