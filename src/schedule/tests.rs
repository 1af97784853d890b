use std::time::Duration;

use chrono::{TimeDelta, TimeZone};

use super::*;

const BERLIN: Tz = Tz::Europe__Berlin;
const UTC: Tz = Tz::UTC;

fn schedule(line: &str) -> Schedule {
    Schedule::parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The occurrences strictly between two instants, as local time with offset.
fn between(line: &str, tz: Tz, from: &str, to: &str) -> Vec<String> {
    let to = at(to);
    schedule(line)
        .upcoming(tz, at(from), 10_000)
        .into_iter()
        .take_while(|found| *found < to)
        .map(|found| found.with_timezone(&tz).format("%d %H:%M %z").to_string())
        .collect()
}

#[test]
fn the_main_jobs_line_runs_three_times_a_day_in_local_time() {
    assert_eq!(
        between("0 3,11,19 * * *", BERLIN, "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
        ["24 03:00 +0100", "24 11:00 +0100", "24 19:00 +0100"]
    );
    assert_eq!(schedule("  0 3,11,19\t* * *  ").to_string(), "0 3,11,19\t* * *");
}

#[test]
fn next_is_strictly_after_also_from_within_a_second() {
    let daily = schedule("@daily");
    assert_eq!(daily.next_after(UTC, at("2026-11-24T00:00:00Z")), Some(at("2026-11-25T00:00:00Z")));
    assert_eq!(daily.next_after(UTC, at("2026-11-23T23:59:59.999Z")), Some(at("2026-11-24T00:00:00Z")));
    assert_eq!(daily.next_after(UTC, at("2026-11-24T00:00:00.001Z")), Some(at("2026-11-25T00:00:00Z")));
}

#[test]
fn words_are_the_lines_cron_puts_in_their_place() {
    for (word, line) in [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * sun"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ] {
        assert_eq!(schedule(word), schedule(line));
    }
}

#[test]
fn names_steps_lists_and_both_sundays_mean_the_same_as_numbers() {
    for (a, b) in [
        ("0 0 * JAN-mar,Dec *", "0 0 * 1,2,3,12 *"),
        ("0 0 * * mon-Fri", "0 0 * * 1-5"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * sat-7", "0 0 * * 0,6"),
        ("1-5/2,7 * * * *", "1,3,5,7 * * * *"),
        ("*/25 * * * *", "*/25,0 * * * *"),
        ("007 * * * *", "7 * * * *"),
        ("*/100 * * * *", "*/60 * * * *"),
        ("0 0 * jan-mar/2 *", "0 0 * 1,3 *"),
    ] {
        assert_eq!(schedule(a), schedule(b), "{a} and {b}");
    }
    assert_eq!(
        between("0 0 * * 1", UTC, "2026-11-20T00:00:00Z", "2026-12-01T00:00:00Z"),
        ["23 00:00 +0000", "30 00:00 +0000"],
        "1 is Monday"
    );
}

#[test]
fn two_restricted_day_fields_are_or_and_a_star_in_front_makes_them_and() {
    // November 2026: the 1st is a Sunday.
    let november = |line| between(line, UTC, "2026-10-31T12:00:00Z", "2026-12-01T00:00:00Z");
    let days =
        |line| november(line).into_iter().map(|text| text[..2].parse::<u32>().unwrap()).collect::<Vec<_>>();
    assert_eq!(days("30 4 1,15 * 5"), [1, 6, 13, 15, 20, 27], "the example of crontab(5)");
    assert_eq!(days("0 0 */2 * Mon"), [9, 23], "Mondays on odd days");
    assert_eq!(days("0 0 13 * */5"), [13], "the 13th if it is a Sunday or Friday");
    assert_eq!(days("0 0 1-31 * Mon").len(), 30, "a full list is no star: either");
    assert_eq!(days("0 0 * * Mon"), [2, 9, 16, 23, 30]);
    assert_eq!(days("0 0 13 * *"), [13]);
    assert_eq!(days("0 0 *,13 * Mon"), [2, 9, 16, 23, 30]);
}

#[test]
fn errors_say_which_field_which_value_and_what_is_allowed() {
    for (line, message) in [
        ("0 25 * * *", "hour 25: allowed are 0 to 23"),
        ("60 * * * *", "minute 60: allowed are 0 to 59"),
        ("0 0 0 * *", "day-of-month 0: allowed are 1 to 31"),
        ("0 0 * 13 *", "month 13: allowed are 1 to 12 and jan to dec"),
        ("0 0 * * 8", "day-of-week 8: allowed are 0 to 7 and sun to sat"),
        ("0 0 * * monday", "day-of-week monday: allowed are 0 to 7 and sun to sat"),
        ("sun * * * *", "minute sun: allowed are 0 to 59"),
        ("0 1,99999999999 * * *", "hour 99999999999: allowed are 0 to 23"),
        ("5-10-12 * * * *", "minute 5-10-12: allowed are 0 to 59"),
        ("0 +3 * * *", "hour +3: allowed are 0 to 23"),
        ("0 ٣ * * *", "hour ٣: allowed are 0 to 23"),
        ("5, * * * *", "minute 5,: an item of the list is empty; write it like 1,2,3"),
        ("*/0 * * * *", "minute */0: the step \"0\" must be a number from 1 on"),
        ("*/2/3 * * * *", "minute */2/3: the step \"2/3\" must be a number from 1 on"),
        ("5/20 * * * *", "minute 5/20: a step needs a range, as in 5-59/20 or */20"),
        ("0 22-2 * * *", "hour 22-2: runs backwards, which cron never matches; write 22-23,0-2"),
        (
            "0 0 * * fri-sun",
            "day-of-week fri-sun: runs backwards, which cron never matches; write 5-7 (Sunday is also 7)",
        ),
        ("0 0 * * 7-2", "day-of-week 7-2: runs backwards, which cron never matches; write 0-2"),
        ("0 0 * * sat-tue", "day-of-week sat-tue: runs backwards, which cron never matches; write 6,0-2"),
        ("0 0 31 2 *", "\"0 0 31 2 *\" never occurs: no month it names has such a day"),
        ("0 0 30 2 */2", "\"0 0 30 2 */2\" never occurs: no month it names has such a day"),
        ("0 0 31 4,6,9,11 *", "\"0 0 31 4,6,9,11 *\" never occurs: no month it names has such a day"),
        (
            "",
            "\"\" has 0 fields: five are needed, minute hour day-of-month month day-of-week, without seconds, user or command",
        ),
        (
            "0 0 3 * * *",
            "\"0 0 3 * * *\" has 6 fields: five are needed, minute hour day-of-month month day-of-week, without seconds, user or command",
        ),
        (
            "@fortnightly",
            "@fortnightly: allowed are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually",
        ),
    ] {
        assert_eq!(Schedule::parse(line).unwrap_err().to_string(), message, "{line}");
    }
    assert!(matches!(Schedule::parse("@reboot"), Err(ScheduleError::Reboot)));
    for garbage in [
        "?",
        "* * * * ?",
        "* * L * *",
        "* * * * 1#2",
        "0~59 * * * *",
        "*5 * * * *",
        "*-5 * * * *",
        "\0",
        "@",
        "- - - - -",
    ] {
        assert!(Schedule::parse(garbage).is_err(), "{garbage:?} was accepted");
    }
}

#[test]
fn rare_days_are_found() {
    assert_eq!(
        schedule("0 0 29 2 *").next_after(UTC, at("2026-01-01T00:00:00Z")),
        Some(at("2028-02-29T00:00:00Z"))
    );
    // A star in front makes it AND: a leap day on a Sunday.
    assert_eq!(
        schedule("0 0 29 2 */7").next_after(UTC, at("2026-01-01T00:00:00Z")),
        Some(at("2032-02-29T00:00:00Z"))
    );
    // OR: the 31st of February never comes, its Mondays do.
    assert_eq!(
        schedule("0 0 31 2 mon").next_after(UTC, at("2026-01-01T00:00:00Z")),
        Some(at("2026-02-02T00:00:00Z"))
    );
}

#[test]
fn a_run_in_a_gap_happens_once_at_its_end() {
    // Berlin: 29 March 2026, 02:00 becomes 03:00.
    let spring = |line| between(line, BERLIN, "2026-03-28T22:30:00Z", "2026-03-29T04:00:00Z");
    assert_eq!(spring("30 2 * * *"), ["29 03:00 +0200"]);
    assert_eq!(spring("0,15,30,45 2 * * *"), ["29 03:00 +0200"]);
    assert_eq!(spring("0 1,2,3,4 * * *"), ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]);
    assert_eq!(
        spring("30 * * * *"),
        [
            "29 00:30 +0100",
            "29 01:30 +0100",
            "29 03:00 +0200",
            "29 03:30 +0200",
            "29 04:30 +0200",
            "29 05:30 +0200"
        ]
    );
    // Apia skipped the whole of 30 December 2011.
    assert_eq!(
        between("0 6,18 * * *", Tz::Pacific__Apia, "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z"),
        ["29 06:00 -1000", "29 18:00 -1000", "31 00:00 +1400", "31 06:00 +1400", "31 18:00 +1400"]
    );
}

#[test]
fn a_run_in_an_overlap_happens_once_unless_a_star_asks_for_both() {
    // Berlin: 25 October 2026, 03:00 becomes 02:00.
    let autumn = |line| between(line, BERLIN, "2026-10-24T23:30:00Z", "2026-10-25T02:30:00Z");
    assert_eq!(autumn("30 2 * * *"), ["25 02:30 +0200"]);
    assert_eq!(autumn("0,30 2,3 * * *"), ["25 02:00 +0200", "25 02:30 +0200", "25 03:00 +0100"]);
    assert_eq!(autumn("30 * * * *"), ["25 02:30 +0200", "25 02:30 +0100"]);
    assert_eq!(
        autumn("*/30 2 * * *"),
        ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100"]
    );
    assert_eq!(
        autumn("0-59/30 2 * * *"),
        ["25 02:00 +0200", "25 02:30 +0200"],
        "a written range is a fixed time"
    );
    // Lord Howe: half an hour, 5 April 2026, 02:00 becomes 01:30.
    assert_eq!(
        between("45 * * * *", Tz::Australia__Lord_Howe, "2026-04-04T14:00:00Z", "2026-04-04T16:20:00Z"),
        ["05 01:45 +1100", "05 01:45 +1030", "05 02:45 +1030"]
    );
}

#[test]
fn the_most_recent_occurrence_is_the_one_whose_next_lies_ahead() {
    for (line, tz) in [
        ("0 3,11,19 * * *", BERLIN),
        ("*/7 * * * *", BERLIN),
        ("30 2 * * *", BERLIN),
        ("* * 1 1 *", UTC),
        ("0 0 29 2 *", UTC),
        ("45 1 * * *", Tz::Australia__Lord_Howe),
    ] {
        let schedule = schedule(line);
        let mut now = at("2026-03-28T20:17:31.5Z");
        for _ in 0..200 {
            let last = schedule.last_at_or_before(tz, now).unwrap();
            assert!(last <= now, "{line}: {last} is after {now}");
            assert!(
                schedule.next_after(tz, last).unwrap() > now,
                "{line}: {last} is not the most recent at {now}"
            );
            assert_eq!(
                schedule.last_at_or_before(tz, last),
                Some(last),
                "{line}: an occurrence is its own most recent"
            );
            now += TimeDelta::seconds(1234 * 37);
        }
    }
    assert_eq!(schedule("@daily").last_at_or_before(UTC, at("1969-06-01T00:00:00Z")), None);
}

#[test]
fn instants_at_the_ends_of_time_do_no_harm() {
    let schedule = schedule("0 3 * * *");
    for tz in [UTC, BERLIN, Tz::Pacific__Apia] {
        assert!(schedule.next_after(tz, DateTime::<Utc>::MIN_UTC).is_some());
        assert_eq!(schedule.next_after(tz, DateTime::<Utc>::MAX_UTC), None);
        assert_eq!(schedule.last_at_or_before(tz, DateTime::<Utc>::MIN_UTC), None);
        assert!(
            schedule
                .last_at_or_before(tz, DateTime::<Utc>::MAX_UTC)
                .is_none_or(|last| last < at("2101-01-02T00:00:00Z"))
        );
    }
    assert!(schedule.upcoming(UTC, at("2100-12-30T12:00:00Z"), 10).len() <= 10);
}

#[test]
fn next_due_counts_from_the_last_success_and_a_failure_does_not_move_it() {
    let daily = schedule("0 3 * * *");
    let seen = at("2026-11-01T12:00:00Z");
    let due = |success: Option<&str>, changed: Option<&str>| {
        next_due(&daily, UTC, success.map(at), seen, changed.map(at))
    };
    assert_eq!(due(None, None), Some(at("2026-11-02T03:00:00Z")), "never succeeded: from first seen");
    assert_eq!(due(Some("2026-11-20T03:00:04Z"), None), Some(at("2026-11-21T03:00:00Z")));
    assert_eq!(
        due(Some("2026-11-20T02:00:00Z"), None),
        Some(at("2026-11-20T03:00:00Z")),
        "by hand, an hour early"
    );
    assert_eq!(
        due(Some("2026-11-20T03:00:04Z"), Some("2026-11-22T08:00:00Z")),
        Some(at("2026-11-23T03:00:00Z"))
    );
    assert_eq!(
        due(Some("2026-11-20T03:00:04Z"), Some("2026-11-10T08:00:00Z")),
        Some(at("2026-11-21T03:00:00Z"))
    );
}

#[test]
fn an_edit_neither_makes_nor_clears_an_overdue() {
    let changed = at("2026-11-22T08:00:00Z");
    let success = Some(at("2026-11-20T03:00:04Z"));
    let now = Some(at("2026-11-23T05:00:00Z"));
    let late = Some(at("2026-11-21T03:00:00Z"));
    let early = Some(at("2026-11-22T12:00:00Z"));
    assert_eq!(due_after_edit(late, changed, success, now), late, "it was late before the edit");
    assert_eq!(due_after_edit(early, changed, success, now), now, "it was not due yet");
    assert_eq!(
        due_after_edit(late, changed, Some(at("2026-11-22T09:00:00Z")), now),
        now,
        "a success has met it"
    );
    assert_eq!(due_after_edit(late, changed, None, now), late);
    assert_eq!(due_after_edit(None, changed, success, now), now);
}

#[test]
fn being_down_over_several_occurrences_makes_one_catch_up() {
    let line = schedule("0 3,11,19 * * *");
    let seen = at("2026-11-01T12:00:00Z");
    let missed = |attempt: Option<&str>, changed: Option<&str>, now: &str| {
        catch_up_due(&line, UTC, attempt.map(at), seen, changed.map(at), at(now))
    };
    let attempt = Some("2026-11-24T03:00:02Z");
    assert_eq!(missed(attempt, None, "2026-11-24T10:59:59Z"), None, "nothing missed");
    assert_eq!(missed(attempt, None, "2026-11-24T11:00:00Z"), Some(at("2026-11-24T11:00:00Z")));
    assert_eq!(
        missed(attempt, None, "2026-11-26T12:00:00Z"),
        Some(at("2026-11-26T11:00:00Z")),
        "the latest of eight"
    );
    assert_eq!(missed(None, None, "2026-11-01T18:00:00Z"), None, "first seen after 11:00");
    assert_eq!(missed(None, None, "2026-11-01T19:30:00Z"), Some(at("2026-11-01T19:00:00Z")));
    assert_eq!(
        missed(attempt, Some("2026-11-24T12:00:00Z"), "2026-11-24T13:00:00Z"),
        None,
        "the edit is no miss"
    );
    assert_eq!(
        missed(Some("2026-12-24T03:00:02Z"), None, "2026-11-26T12:00:00Z"),
        None,
        "the clock went back"
    );
}

#[test]
fn splay_is_stable_below_the_maximum_and_spread() {
    let max = Duration::from_secs(600);
    let delays: Vec<Duration> =
        (0..1000).map(|host| splay_delay(&format!("host{host}/askproai/1795543200"), max)).collect();
    assert!(delays.iter().all(|delay| *delay < max));
    assert_eq!(delays[7], splay_delay("host7/askproai/1795543200", max));
    for tenth in 0..10 {
        let range = max / 10 * tenth..max / 10 * (tenth + 1);
        let inside = delays.iter().filter(|delay| range.contains(delay)).count();
        assert!((60..=140).contains(&inside), "{inside} of 1000 in {range:?}");
    }
    assert_eq!(splay_delay("any", Duration::ZERO), Duration::ZERO);
    assert_eq!(splay_delay("any", Duration::from_nanos(1)), Duration::ZERO);
}

#[test]
fn gaps_end_at_the_second_the_zone_says() {
    // Monrovia went from -0:44:30 to UTC in 1972, at local midnight.
    let tz = Tz::Africa__Monrovia;
    let gap = chrono::NaiveDate::from_ymd_opt(1972, 1, 7).unwrap().and_hms_opt(0, 30, 0).unwrap();
    assert!(matches!(tz.from_local_datetime(&gap), chrono::MappedLocalTime::None));
    assert_eq!(next::end_of_gap(tz, gap), at("1972-01-07T00:44:30Z"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(line in "[-*/,0-9a-z@ \\t~#?é]{0,40}", any in ".{0,40}") {
        for line in [line, any] {
            if let Ok(schedule) = Schedule::parse(&line) {
                let after = at("2026-11-24T00:00:00Z");
                proptest::prop_assert!(schedule.next_after(BERLIN, after).unwrap() > after);
            }
        }
    }
}
