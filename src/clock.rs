//! Time as something that is given, so that tests need not wait for it.

use std::sync::Mutex;

use chrono::{DateTime, Duration, Utc};

/// Where the time of day comes from.
pub trait Clock: Send + Sync {
    /// The current instant.
    fn now(&self) -> DateTime<Utc>;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        #[allow(clippy::disallowed_methods)] // the one place that asks the system
        Utc::now()
    }
}

/// Whether what was written down as having happened at `at` can have. What is later than now was written under a
/// clock that was ahead: taken at its word it would keep still whatever counts from it, for as long as that was.
pub fn is_believable(at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    at <= now
}

/// Whether something still waits for `until`, when nothing ever waits for longer than `longest`. What says that it
/// does counted from a clock that was ahead, and is due.
pub fn waits(until: DateTime<Utc>, now: DateTime<Utc>, longest: Duration) -> bool {
    now < until && until <= now + longest
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<DateTime<Utc>>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock by `by`, which may be negative.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) += by;
    }

    /// Sets the clock.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
