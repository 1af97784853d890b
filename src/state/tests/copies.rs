use std::time::Duration as Std;

use super::*;

const LEASE: Std = Std::from_secs(600);

#[test]
fn the_queue_gives_the_newest_backup_first_and_only_what_is_due() {
    let f = Fixture::new();
    let (old, new) = (f.run_of_size(0, 10, 1), f.run_of_size(100, 10, 1));
    let due = |m| f.state.pending_copies(at(m)).unwrap().into_iter().map(|c| c.run_id).collect::<Vec<_>>();
    assert_eq!(due(200), [new.clone(), old.clone()]);
    let failure =
        CopyFailure { error: "nas: timed out".into(), next_attempt: Some(at(300)), permanent: false };
    f.state.copy_failed(&new, &nas(), &failure).unwrap();
    assert_eq!(due(299), std::slice::from_ref(&old));
    assert_eq!(due(300), [new.clone(), old.clone()]);
    let given_up = CopyFailure { error: "wrong share".into(), next_attempt: None, permanent: true };
    f.state.copy_failed(&new, &nas(), &given_up).unwrap();
    assert_eq!(due(9999), [old]);
    assert_eq!(f.state.pending_count(&job(), &nas()).unwrap(), 2, "given up is still owed");
    let copy = f.state.copy(&new, &nas()).unwrap().unwrap();
    assert_eq!((copy.attempts, copy.permanent, copy.last_error.as_deref()), (2, true, Some("wrong share")));
    assert_eq!(f.count(names::COPY_FAILURES, "nas"), 2);
    assert_eq!(f.state.retry_copies(Some(&nas()), at(400)).unwrap(), 2);
    assert_eq!(due(400).len(), 2);
}

#[test]
fn a_copy_that_waits_by_a_clock_that_was_ahead_is_due() {
    let f = Fixture::new();
    let id = f.run_of_size(0, 10, 1);
    let fails = |next| {
        let failure = CopyFailure { error: "nas: down".into(), next_attempt: Some(next), permanent: false };
        f.state.copy_failed(&id, &nas(), &failure).unwrap();
    };
    let due = || f.state.pending_copies(at(10)).unwrap().len();
    fails(at(10) + Duration::days(365));
    assert_eq!(due(), 1);
    f.state.hold_copies(&nas(), at(15)).unwrap();
    assert_eq!(due(), 0, "it waits with the others");
    fails(at(10) + Duration::hours(29));
    assert_eq!(due(), 0);
    f.state.hold_copies(&nas(), at(15)).unwrap();
    assert!(f.state.pending_copies(at(16)).unwrap().is_empty(), "what waits for longer still does");
}

#[test]
fn what_was_read_back_under_a_clock_that_was_ahead_uses_up_no_budget() {
    let f = Fixture::new();
    let read = || f.state.verify_read_since(&nas(), at(0), at(20)).unwrap();
    f.state.add_verify_read(&nas(), 1000, at(525_600)).unwrap();
    assert_eq!(read(), 0);
    f.state.add_verify_read(&nas(), 7, at(10)).unwrap();
    f.state.add_verify_read(&nas(), 5, at(15)).unwrap();
    assert_eq!(read(), 12);
}

#[test]
fn a_claimed_copy_is_nobody_elses_until_the_lease_runs_out() {
    let f = Fixture::new();
    let id = f.run_of_size(0, 10, 1);
    let claim = |who: &str, m| f.state.claim_copy(&id, &nas(), who, at(m), LEASE).unwrap();
    assert!(claim("one", 10));
    assert!(!claim("two", 15));
    assert!(f.state.pending_copies(at(15)).unwrap().is_empty());
    assert!(claim("one", 19), "the claimer may prolong");
    assert!(!claim("two", 28));
    assert!(claim("two", 29));
    f.state.release_copy(&id, &nas(), "one").unwrap();
    assert!(f.state.pending_copies(at(30)).unwrap().is_empty(), "only the holder gives back");
    f.state.release_copy(&id, &nas(), "two").unwrap();
    assert_eq!(f.state.pending_copies(at(30)).unwrap().len(), 1);
    f.state.copy_done(&id, &nas(), "daily/x", 5, true, at(31)).unwrap();
    assert!(!claim("one", 32), "what is done is not claimed");
}

#[test]
fn what_is_known_of_a_target_outlives_its_copies() {
    let f = Fixture::new();
    let id = f.run_of_size(0, 10, 1);
    f.state.set_copy_location(&id, &nas(), "daily/x").unwrap();
    f.state.copy_done(&id, &nas(), "daily/x-1", 5, false, at(10)).unwrap();
    let copy = f.state.copy(&id, &nas()).unwrap().unwrap();
    assert_eq!((copy.status, copy.location.as_deref()), (CopyStatus::Complete, Some("daily/x-1")));
    f.state.record_verify(&id, &nas(), Err("database.sql.zst: digest differs"), at(20)).unwrap();
    assert_eq!(f.state.copy(&id, &nas()).unwrap().unwrap().status, CopyStatus::Corrupt);
    f.state.record_verify(&id, &nas(), Ok(()), at(30)).unwrap();
    assert_eq!(f.state.copy(&id, &nas()).unwrap().unwrap().last_error, None);
    f.state.record_retention(&job(), &nas(), None, at(40)).unwrap();
    f.state.record_retention(&job(), &nas(), Some("read-only file system"), at(50)).unwrap();
    f.state.copy_expired(&id, &nas(), at(60)).unwrap();
    f.state.record_verify(&id, &nas(), Err("gone"), at(70)).unwrap();
    assert_eq!(f.state.copy(&id, &nas()).unwrap().unwrap().status, CopyStatus::Expired, "expired stays so");

    let snapshot = f.state.snapshot(at(80)).unwrap();
    let target = &snapshot.job(&job()).unwrap().targets[&nas()];
    assert_eq!((target.kept, target.corrupt, target.pending), (0, 0, 0));
    assert_eq!(
        (target.last_copy_success, target.last_verify, target.last_verify_ok),
        (Some(at(10)), Some(at(30)), Some(true))
    );
    assert_eq!(
        (target.last_retention, target.retention_error.as_deref()),
        (Some(at(40)), Some("read-only file system"))
    );
    assert_eq!(f.state.last_copy_success(&job(), &nas()).unwrap(), Some(at(10)));
}

#[test]
fn a_backup_found_at_a_target_is_recorded_without_its_run() {
    let f = Fixture::new();
    let id = RunId::generate(at(0));
    f.state.import_copy(&job(), &id, at(0), Outcome::Success, &primary(7), at(90)).unwrap();
    f.state.import_copy(&job(), &id, at(0), Outcome::Success, &primary(7), at(91)).unwrap();
    let copies = f.state.copies(Some(&job()), Some(&local())).unwrap();
    assert_eq!(copies.len(), 1);
    assert_eq!((copies[0].started, copies[0].status, copies[0].bytes), (at(0), CopyStatus::Verified, 7));
    assert!(f.state.copies(None, Some(&nas())).unwrap().is_empty());
}

#[test]
fn of_a_pin_and_a_removal_the_first_one_holds() {
    let f = Fixture::new();
    let pin = crate::manifest::Pin::new(at(20), "root@web1".to_owned(), None);
    let (pinned, going) = (f.run_of_size(0, 10, 1), f.run_of_size(100, 10, 1));
    for id in [&pinned, &going] {
        f.state.copy_done(id, &nas(), "daily/x", 5, true, at(10)).unwrap();
    }
    assert_eq!(f.state.set_pin(&pinned, &nas(), Some(&pin)).unwrap(), PinChange::Made);
    assert_eq!(f.state.set_pin(&pinned, &nas(), Some(&pin)).unwrap(), PinChange::None);
    assert!(!f.state.copy_expiring(&pinned, &nas()).unwrap());
    assert_eq!(f.state.copy(&pinned, &nas()).unwrap().unwrap().status, CopyStatus::Verified);

    assert!(f.state.copy_expiring(&going, &nas()).unwrap());
    assert_eq!(f.state.set_pin(&going, &nas(), Some(&pin)).unwrap(), PinChange::TooLate);
    let copy = f.state.copy(&going, &nas()).unwrap().unwrap();
    assert_eq!((copy.status, copy.pinned), (CopyStatus::Expired, false));
    assert!(f.state.copy_expiring(&going, &nas()).unwrap(), "what was cut short goes on");
    assert_eq!(f.state.set_pin(&pinned, &nas(), None).unwrap(), PinChange::Made);
    assert!(f.state.copy_expiring(&pinned, &nas()).unwrap());
}

#[test]
fn a_change_to_a_copy_that_is_not_known_is_an_error() {
    let f = Fixture::new();
    let error = f.state.copy_expired(&RunId::generate(at(0)), &nas(), at(1)).unwrap_err();
    assert!(matches!(error, StateError::UnknownRun { .. }) && !error.is_lasting());
}
