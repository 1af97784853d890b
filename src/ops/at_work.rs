//! What this process is doing now. The state names the process behind a run, and behind a copy that is being made. One
//! that lives for months may have ended the work long ago, without the state having taken the end.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lock::ProcessIdentity;

/// Runs by their ids, passes through the queue of copies by the names they claim under.
static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn names() -> MutexGuard<'static, BTreeSet<String>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work of this process; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the work counts as ended when this is dropped"]
pub struct AtWork(String);

/// Begins work under a name that nobody else has. To be called before the state hears of it.
pub fn begin(name: impl Into<String>) -> AtWork {
    let name = name.into();
    names().insert(name.clone());
    AtWork(name)
}

impl Drop for AtWork {
    fn drop(&mut self) {
        names().remove(&self.0);
    }
}

/// Whether `process` still does the work of this name. Of other processes it is only known that they live.
pub fn goes_on(process: &ProcessIdentity, name: &str) -> bool {
    process.is_alive() && (process.pid != std::process::id() || names().contains(name))
}

/// Whether it is this process, whose work may have ended before it.
pub fn is_own(process: &ProcessIdentity) -> bool {
    process.pid == std::process::id() && process.is_alive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_goes_on_until_it_is_dropped_and_that_of_others_for_as_long_as_they_live() {
        let own = ProcessIdentity::current();
        let name = "the work of a test";
        assert!(!goes_on(&own, name));
        let work = begin(name);
        assert!(goes_on(&own, name) && !goes_on(&own, "another"));
        let earlier = ProcessIdentity { start_ticks: Some(1), ..own.clone() };
        assert!(!goes_on(&earlier, name) && !is_own(&earlier), "another process had this number before");
        drop(work);
        assert!(!goes_on(&own, name) && is_own(&own));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().ok();
        let other = ProcessIdentity { pid: child.id(), start_ticks: ticks, ..own };
        assert!(goes_on(&other, name) && !is_own(&other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!goes_on(&other, name));
    }
}
