use chrono::TimeZone;

use super::*;

const BERLIN: Tz = Tz::Europe__Berlin;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A verified success that started at `text`, with an id made of its start.
fn copy(text: &str) -> StoredCopy {
    let started = at(text);
    StoredCopy {
        run_id: format!("{}-aaaaaa", started.format("%Y%m%dT%H%M%SZ")).parse().unwrap(),
        started,
        outcome: Outcome::Success,
        status: Status::Verified,
        pinned: false,
        retained_until: None,
        bytes: 1000,
    }
}

fn with(text: &str, change: impl FnOnce(&mut StoredCopy)) -> StoredCopy {
    let mut copy = copy(text);
    change(&mut copy);
    copy
}

fn decided(copies: &[StoredCopy], policy: &Policy, now: &str) -> Vec<String> {
    decide(copies, policy, Counts::Verified, BERLIN, at(now), true).iter().map(Decision::to_string).collect()
}

/// Three a day, as `0 3,11,19 * * *` in Berlin makes them, for so many days before 24 November 2026.
fn three_a_day(days: u32) -> Vec<StoredCopy> {
    let end = BERLIN.with_ymd_and_hms(2026, 11, 24, 0, 0, 0).unwrap().date_naive();
    (0..days)
        .flat_map(|back| {
            [3, 11, 19].map(|hour| (end - TimeDelta::days(back.into())).and_hms_opt(hour, 0, 0).unwrap())
        })
        .map(|local| {
            let started = BERLIN.from_local_datetime(&local).unwrap().to_utc();
            copy(&started.to_rfc3339())
        })
        .collect()
}

#[test]
fn reasons_are_given_for_each_copy_newest_first() {
    let policy = Policy { last: Some(2), daily: Some(3), ..Policy::default() };
    assert_eq!(
        decided(&three_a_day(4), &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: last 1 of 2; daily 1 of 3 (2026-11-24); newest verified",
            "keep 20261124T100000Z-aaaaaa: last 2 of 2",
            "delete 20261124T020000Z-aaaaaa: no rule keeps it",
            "keep 20261123T180000Z-aaaaaa: daily 2 of 3 (2026-11-23)",
            "delete 20261123T100000Z-aaaaaa: no rule keeps it",
            "delete 20261123T020000Z-aaaaaa: no rule keeps it",
            "keep 20261122T180000Z-aaaaaa: daily 3 of 3 (2026-11-22)",
            "delete 20261122T100000Z-aaaaaa: no rule keeps it",
            "delete 20261122T020000Z-aaaaaa: no rule keeps it",
            "delete 20261121T180000Z-aaaaaa: no rule keeps it",
            "delete 20261121T100000Z-aaaaaa: no rule keeps it",
            "delete 20261121T020000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn weeks_are_iso_weeks_and_months_and_years_are_local() {
    let copies = [
        copy("2026-12-31T23:30:00Z"), // 2027-01-01 in Berlin, ISO week 53 of 2026
        copy("2026-12-31T12:00:00Z"),
        copy("2026-12-27T12:00:00Z"), // Sunday, week 52
        copy("2026-11-30T12:00:00Z"),
    ];
    let policy = Policy { weekly: Some(2), monthly: Some(2), yearly: Some(2), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2027-01-01T00:00:00Z"),
        [
            "keep 20261231T233000Z-aaaaaa: weekly 1 of 2 (2026-W53); monthly 1 of 2 (2027-01); \
             yearly 1 of 2 (2027); newest verified",
            "keep 20261231T120000Z-aaaaaa: monthly 2 of 2 (2026-12); yearly 2 of 2 (2026)",
            "keep 20261227T120000Z-aaaaaa: weekly 2 of 2 (2026-W52)",
            "delete 20261130T120000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn the_hour_that_happens_twice_has_two_places() {
    let copies = [copy("2026-10-25T01:30:00Z"), copy("2026-10-25T00:30:00Z"), copy("2026-10-25T00:10:00Z")];
    let policy = Policy { hourly: Some(24), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-10-25T02:00:00Z"),
        [
            "keep 20261025T013000Z-aaaaaa: hourly 1 of 24 (2026-10-25 02h+01:00); newest verified",
            "keep 20261025T003000Z-aaaaaa: hourly 2 of 24 (2026-10-25 02h+02:00)",
            "delete 20261025T001000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn everything_younger_than_the_window_stays() {
    let copies = [copy("2026-11-24T18:00:00Z"), copy("2026-11-17T18:10:01Z"), copy("2026-11-17T18:10:00Z")];
    let policy = Policy { within: Some(Duration::from_secs(7 * 86_400)), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: within 7days; newest verified",
            "keep 20261117T181001Z-aaaaaa: within 7days",
            "delete 20261117T181000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn no_policy_and_a_policy_of_zeros_keep_everything() {
    let mut copies = three_a_day(10);
    for copy in copies.iter_mut().step_by(2) {
        copy.outcome = Outcome::Partial;
    }
    let zeros = Policy { last: Some(0), daily: Some(0), within: Some(Duration::ZERO), ..Policy::default() };
    for policy in [Policy::default(), zeros] {
        assert!(policy.is_empty());
        for line in decided(&copies, &policy, "2026-11-24T18:10:00Z") {
            assert!(
                line.starts_with("keep ") && line.ends_with(": no rule for deleting, so everything is kept"),
                "{line}"
            );
        }
    }
}

#[test]
fn the_newest_verified_stays_behind_any_number_of_newer_complete_ones() {
    let mut copies = three_a_day(3);
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.started));
    for copy in &mut copies[..7] {
        copy.status = Status::Complete;
    }
    let policy = Policy { last: Some(2), ..Policy::default() };
    let decisions = decide(&copies, &policy, Counts::Complete, BERLIN, at("2026-11-24T18:10:00Z"), true);
    let lines: Vec<String> = decisions.iter().map(Decision::to_string).collect();
    assert_eq!(lines[0], "keep 20261124T180000Z-aaaaaa: last 1 of 2");
    assert_eq!(lines[1], "keep 20261124T100000Z-aaaaaa: last 2 of 2");
    assert_eq!(lines[2], "delete 20261124T020000Z-aaaaaa: no rule keeps it");
    assert_eq!(lines[7], "keep 20261122T100000Z-aaaaaa: newest verified");
    assert_eq!(decisions.iter().filter(|decision| decision.keep).count(), 3);
}

#[test]
fn the_newest_complete_stays_when_nothing_is_verified() {
    let copies = [
        with("2026-11-20T18:00:00Z", |c| c.status = Status::Complete),
        with("2026-11-19T18:00:00Z", |c| c.status = Status::Complete),
    ];
    let policy = Policy { within: Some(Duration::from_secs(3600)), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261120T180000Z-aaaaaa: newest complete, and none is verified",
            "delete 20261119T180000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn copies_not_read_back_yet_stay_without_using_up_a_place() {
    let copies = [
        with("2026-11-24T18:00:00Z", |c| c.status = Status::Complete),
        copy("2026-11-24T10:00:00Z"),
        with("2026-11-23T18:00:00Z", |c| c.status = Status::Complete),
        copy("2026-11-22T18:00:00Z"),
        copy("2026-11-21T18:00:00Z"),
    ];
    let policy = Policy { last: Some(1), daily: Some(2), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: last, not verified yet",
            "keep 20261124T100000Z-aaaaaa: last 1 of 1; daily 1 of 2 (2026-11-24); newest verified",
            "keep 20261123T180000Z-aaaaaa: daily, not verified yet (2026-11-23)",
            "keep 20261122T180000Z-aaaaaa: daily 2 of 2 (2026-11-22)",
            "delete 20261121T180000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn the_newest_two_partials_stay_and_count_for_nothing() {
    let partial = |text: &str| with(text, |c| c.outcome = Outcome::Partial);
    let copies = [
        partial("2026-11-24T18:00:00Z"),
        copy("2026-11-24T10:00:00Z"),
        partial("2026-11-23T18:00:00Z"),
        with("2026-11-22T18:00:00Z", |c| c.outcome = Outcome::Warning),
        partial("2026-11-21T18:00:00Z"),
    ];
    let policy =
        Policy { daily: Some(30), within: Some(Duration::from_secs(30 * 86_400)), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: partial 1 of 2",
            "keep 20261124T100000Z-aaaaaa: daily 1 of 30 (2026-11-24); within 30days; newest verified",
            "keep 20261123T180000Z-aaaaaa: partial 2 of 2",
            "keep 20261122T180000Z-aaaaaa: daily 2 of 30 (2026-11-22); within 30days",
            "delete 20261121T180000Z-aaaaaa: partial, and the newest 2 partials are newer",
        ]
    );
}

#[test]
fn a_corrupt_copy_stays_until_a_good_one_is_newer_and_its_place_goes_to_another() {
    let corrupt = |text: &str| with(text, |c| c.status = Status::Corrupt);
    let copies = [
        corrupt("2026-11-24T18:00:00Z"),
        with("2026-11-24T17:00:00Z", |c| c.outcome = Outcome::Failure),
        copy("2026-11-24T10:00:00Z"),
        corrupt("2026-11-23T18:00:00Z"),
        with("2026-11-23T12:00:00Z", |c| c.outcome = Outcome::Interrupted),
        copy("2026-11-22T18:00:00Z"),
        copy("2026-11-21T18:00:00Z"),
    ];
    let policy = Policy { last: Some(2), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: damaged, but no good backup is newer",
            "keep 20261124T170000Z-aaaaaa: damaged, but no good backup is newer",
            "keep 20261124T100000Z-aaaaaa: last 1 of 2; newest verified",
            "delete 20261123T180000Z-aaaaaa: corrupt, and a newer backup is good",
            "delete 20261123T120000Z-aaaaaa: its run ended as interrupted, and a newer backup is good",
            "keep 20261122T180000Z-aaaaaa: last 2 of 2",
            "delete 20261121T180000Z-aaaaaa: no rule keeps it",
        ]
    );
}

#[test]
fn only_corrupt_copies_all_stay() {
    let corrupt = |text: &str| with(text, |c| c.status = Status::Corrupt);
    let copies =
        [corrupt("2026-11-24T18:00:00Z"), corrupt("2026-11-23T18:00:00Z"), corrupt("2020-01-01T00:00:00Z")];
    let policy = Policy { last: Some(1), ..Policy::default() };
    let decisions = decide(&copies, &policy, Counts::Verified, BERLIN, at("2026-11-24T18:10:00Z"), true);
    assert!(decisions.iter().all(|decision| decision.keep));
}

#[test]
fn pinned_copies_stay_whatever_they_are() {
    let pin = |text: &str, change: fn(&mut StoredCopy)| {
        with(text, |c| {
            c.pinned = true;
            change(c);
        })
    };
    let copies = [
        copy("2026-11-24T18:00:00Z"),
        pin("2026-03-01T18:00:00Z", |_| {}),
        pin("2026-02-01T18:00:00Z", |c| c.status = Status::Corrupt),
        copy("2026-01-01T18:00:00Z"),
    ];
    let policy = Policy { last: Some(1), ..Policy::default() };
    let keep: Vec<bool> =
        decide(&copies, &policy, Counts::Verified, BERLIN, at("2026-11-24T18:10:00Z"), true)
            .iter()
            .map(|d| d.keep)
            .collect();
    assert_eq!(keep, [true, true, true, false]);
}

#[test]
fn nothing_is_deleted_when_the_clock_cannot_be_trusted_or_went_back() {
    let copies = three_a_day(5);
    let policy = Policy { last: Some(1), ..Policy::default() };
    let told_so = decide(&copies, &policy, Counts::Verified, BERLIN, at("2026-11-24T18:10:00Z"), false);
    let a_year_back = decide(&copies, &policy, Counts::Verified, BERLIN, at("2025-11-24T18:10:00Z"), true);
    for decision in told_so.iter().chain(&a_year_back) {
        assert!(decision.keep);
        assert_eq!(decision.reasons, ["the clock cannot be trusted, so nothing is deleted"]);
    }
    // A few hours of disagreement are no jump.
    let an_hour_back = decide(&copies, &policy, Counts::Verified, BERLIN, at("2026-11-24T17:00:00Z"), true);
    assert_eq!(an_hour_back.iter().filter(|decision| decision.keep).count(), 1);
}

#[test]
fn no_copies_need_no_decision() {
    let policy = Policy { last: Some(1), ..Policy::default() };
    assert_eq!(decide(&[], &policy, Counts::Verified, BERLIN, at("2026-11-24T18:10:00Z"), true), []);
}

proptest::proptest! {
    /// Whatever the copies and the policy: each copy gets one decision with a reason, the newest verified
    /// stays, and what was decided once is decided again when the deleted ones are gone.
    #[test]
    fn retention_never_deletes_the_last_good_backup_and_settles(
        kinds in proptest::collection::vec((0u32..100_000, 0usize..5, 0usize..3), 0..40),
        rules in proptest::collection::vec(proptest::option::of(0u32..6), 6),
        bounds in proptest::collection::vec(proptest::option::of(0u64..20_000), 2),
        counts in proptest::bool::ANY,
    ) {
        let now = at("2026-11-24T18:10:00Z");
        let mut copies: Vec<StoredCopy> = kinds
            .iter()
            .map(|(hours, outcome, status)| StoredCopy {
                outcome: Outcome::ALL[*outcome],
                status: [Status::Complete, Status::Verified, Status::Corrupt][*status],
                ..copy(&(now - TimeDelta::hours(i64::from(*hours))).to_rfc3339())
            })
            .collect();
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.started));
        copies.dedup_by_key(|copy| copy.started);
        let policy = Policy {
            last: rules[0], hourly: rules[1], daily: rules[2], weekly: rules[3], monthly: rules[4], yearly: rules[5],
            within: None, max_bytes: bounds[0], min_bytes: bounds[1],
        };
        let counts = if counts { Counts::Verified } else { Counts::Complete };
        let decisions = decide(&copies, &policy, counts, BERLIN, now, true);
        proptest::prop_assert_eq!(decisions.len(), copies.len());
        for (copy, decision) in copies.iter().zip(&decisions) {
            proptest::prop_assert_eq!(&copy.run_id, &decision.run_id);
            proptest::prop_assert!(!decision.reasons.is_empty());
        }
        let kept: Vec<StoredCopy> =
            copies.iter().zip(&decisions).filter(|(_, d)| d.keep).map(|(c, _)| c.clone()).collect();
        let newest_verified = copies.iter().find(|copy| copy.is_verified());
        proptest::prop_assert_eq!(newest_verified, kept.iter().find(|copy| copy.is_verified()));
        proptest::prop_assert_eq!(
            copies.iter().find(|copy| copy.is_good()).is_some(),
            kept.iter().any(|copy| copy.is_good())
        );
        let counted = |of: &[StoredCopy]| of.iter().filter(|c| counts.accept(c)).map(|c| c.bytes).sum::<u64>();
        proptest::prop_assert!(counted(&kept) >= bounds[1].unwrap_or(0).min(counted(&copies)));
        let again = decide(&kept, &policy, counts, BERLIN, now, true);
        for decision in &again {
            proptest::prop_assert!(decision.keep, "{decision}");
        }
    }
}

#[test]
fn a_limit_of_bytes_lets_the_oldest_go_and_never_the_newest_or_what_is_pinned() {
    let mut copies = three_a_day(2);
    copies[5].pinned = true; // the oldest but the order of the list is another
    let policy = Policy { last: Some(6), max_bytes: Some(3500), ..Policy::default() };
    let pinned = copies[5].run_id.to_string();
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: last 1 of 6; newest verified".to_owned(),
            "keep 20261124T100000Z-aaaaaa: last 2 of 6".to_owned(),
            "delete 20261124T020000Z-aaaaaa: newer backups take max_bytes, 3.42 KiB".to_owned(),
            format!("keep {pinned}: last 4 of 6; pinned"),
            "delete 20261123T100000Z-aaaaaa: newer backups take max_bytes, 3.42 KiB".to_owned(),
            "delete 20261123T020000Z-aaaaaa: newer backups take max_bytes, 3.42 KiB".to_owned(),
        ]
    );
    // A limit alone keeps what fits, and the newest even when it does not.
    let policy = Policy { max_bytes: Some(500), ..Policy::default() };
    let kept: Vec<_> = decided(&three_a_day(1), &policy, "2026-11-24T18:10:00Z");
    assert_eq!(
        kept,
        [
            "keep 20261124T180000Z-aaaaaa: within max_bytes; newest verified",
            "delete 20261124T100000Z-aaaaaa: newer backups take max_bytes, 500 B",
            "delete 20261124T020000Z-aaaaaa: newer backups take max_bytes, 500 B",
        ]
    );
    // Nor does it take the newest one that nobody has read back yet.
    let unverified = with("2026-11-24T19:00:00Z", |c| c.status = Status::Complete);
    let copies = [unverified, copy("2026-11-24T18:00:00Z"), copy("2026-11-24T17:00:00Z")];
    let kept = decided(&copies, &policy, "2026-11-24T19:10:00Z");
    assert!(
        kept[0].starts_with("keep") && kept[1].starts_with("keep") && kept[2].starts_with("delete"),
        "{kept:?}"
    );
}

#[test]
fn a_floor_of_bytes_gives_the_newest_back_that_no_rule_keeps() {
    let mut copies = three_a_day(2);
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.started));
    copies[1].status = Status::Complete;
    copies[2].outcome = Outcome::Partial;
    let policy = Policy { last: Some(1), min_bytes: Some(2500), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: last 1 of 1; newest verified",
            // It stays, and fills nothing: nobody has read it back yet.
            "keep 20261124T100000Z-aaaaaa: the others have less than min_bytes, 2.44 KiB",
            "keep 20261124T020000Z-aaaaaa: partial 1 of 2",
            "keep 20261123T180000Z-aaaaaa: the others have less than min_bytes, 2.44 KiB",
            "keep 20261123T100000Z-aaaaaa: the others have less than min_bytes, 2.44 KiB",
            "delete 20261123T020000Z-aaaaaa: no rule keeps it",
        ]
    );
    // By itself it lets nothing go, and where both bounds cannot hold it is the floor that does.
    let alone = Policy { min_bytes: Some(1), ..Policy::default() };
    assert!(decided(&copies, &alone, "2026-11-24T18:10:00Z").iter().all(|line| line.starts_with("keep")));
    let both = Policy { max_bytes: Some(1900), min_bytes: Some(1500), ..Policy::default() };
    assert_eq!(
        decided(&three_a_day(1), &both, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: within max_bytes; newest verified",
            "keep 20261124T100000Z-aaaaaa: the others have less than min_bytes, 1.46 KiB",
            "delete 20261124T020000Z-aaaaaa: newer backups take max_bytes, 1.86 KiB",
        ]
    );
}

#[test]
fn what_the_storage_keeps_stays_until_it_lets_go_and_takes_no_place() {
    let mut copies = three_a_day(2);
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.started));
    copies[1].retained_until = Some(at("2026-12-24T10:00:00Z"));
    copies[2].retained_until = Some(at("2026-11-24T18:10:00Z")); // a moment ago
    let policy = Policy { last: Some(2), max_bytes: Some(1500), ..Policy::default() };
    assert_eq!(
        decided(&copies, &policy, "2026-11-24T18:10:00Z"),
        [
            "keep 20261124T180000Z-aaaaaa: last 1 of 2; newest verified",
            "keep 20261124T100000Z-aaaaaa: the storage keeps it until 2026-12-24 11:00; newer backups take \
             max_bytes, 1.46 KiB",
            "delete 20261124T020000Z-aaaaaa: no rule keeps it",
            "delete 20261123T180000Z-aaaaaa: no rule keeps it",
            "delete 20261123T100000Z-aaaaaa: no rule keeps it",
            "delete 20261123T020000Z-aaaaaa: no rule keeps it",
        ]
    );
}
