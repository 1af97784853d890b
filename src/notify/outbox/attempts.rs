//! What follows from an attempt: when the next one is, and when there is none.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::notify::{Failure, SendError};
use crate::state::LONGEST_PAUSE;

/// The wait after the first failed attempt; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
const _: () = assert!(LONGEST_WAIT.as_secs() <= LONGEST_PAUSE.num_seconds() as u64);
/// After this long a message that was never accepted is given up. It stays in the outbox as failed, and a
/// trouble that lasts is told anew.
pub const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Sent,
    Again(DateTime<Utc>, String),
    GivenUp(String),
    Refused(String),
}

/// How long to wait after `attempts` failed ones; `jitter` is between 0 and 1 and spreads hosts that fail
/// together over 40 % of the wait.
fn wait(attempts: u64, jitter: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16) as u32;
    let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    wait.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(LONGEST_WAIT)
}

pub(super) fn judge(
    result: Result<(), SendError>,
    attempts: u64,
    created: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Verdict {
    match result {
        Ok(()) => Verdict::Sent,
        Err(error) if error.failure == Failure::Permanent => Verdict::Refused(error.text),
        Err(error) if now - created >= GIVE_UP_AFTER => {
            Verdict::GivenUp(format!("given up after {} days: {}", GIVE_UP_AFTER.num_days(), error.text))
        }
        Err(error) => {
            // A server that says how long it wants to be left alone is left alone.
            let wait = wait(attempts, rand::random()).max(error.retry_after.unwrap_or_default());
            Verdict::Again(now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::hours(1)), error.text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        let seconds = |attempts| wait(attempts, 0.5).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 8, 1000].map(seconds), [30, 60, 120, 960, 1920, 3600, 3600]);
        assert!(wait(1, 0.0) >= Duration::from_secs(24) && wait(1, 1.0) <= Duration::from_secs(36));
        assert_eq!(wait(u64::MAX, 1.0), LONGEST_WAIT);
    }

    #[test]
    fn a_message_is_given_up_after_three_days_or_when_refused_for_good() {
        let created: DateTime<Utc> = "2026-11-24T18:00:00Z".parse().unwrap();
        let fails = |failure| Err(SendError::new(failure, "the server said no"));
        let judge = |failure, after| judge(fails(failure), 3, created, created + after);
        assert!(matches!(judge(Failure::Transient, TimeDelta::hours(71)), Verdict::Again(..)));
        assert!(matches!(judge(Failure::Unreachable, TimeDelta::hours(-5)), Verdict::Again(..)));
        assert!(matches!(judge(Failure::Permanent, TimeDelta::zero()), Verdict::Refused(_)));
        assert_eq!(
            judge(Failure::Transient, TimeDelta::hours(72)),
            Verdict::GivenUp("given up after 3 days: the server said no".to_owned())
        );
    }
}
