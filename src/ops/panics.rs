//! Defects of the program itself, as errors: they fail one piece of work, and are told like other failures.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow};

/// A panic in `work` as an error, so that what must be cleaned up after an error is cleaned up after it too.
pub fn unwinding<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(panicked(&*payload)))
}

fn panicked(payload: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    anyhow!("internal error: {text}; please report it")
}
