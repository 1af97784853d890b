//! Places where a test can make things go wrong. Without the Cargo feature `failpoints` they are nothing.
//!
//! With it, the environment variable `BACKUP_AGENT_FAILPOINT` names a place and what happens there:
//!
//! ```text
//! publish=kill            the process ends with SIGKILL
//! local:write#3=enospc    the third write to target `local` finds the disk full
//! ```
//!
//! | action | what happens |
//! | --- | --- |
//! | `kill` | the process ends as by SIGKILL |
//! | `panic` | the thread panics |
//! | `error` | the place fails |
//! | `eio`, `enospc` | it fails as a system call would |
//! | `sleep` | it hangs |
//! | `pause` | it hangs until there is a file named like the trace, with `.go` appended |
//!
//! Without `#N` it happens each time the place is passed. `BACKUP_AGENT_FAILPOINT_TRACE` names a file that
//! gets a line `place#N` for each place passed, `fired ` before it where something happened: that is how a test knows
//! which places there are, and that its fault was one.
//!
//! `BACKUP_AGENT_FAILPOINT_HASTE` is a number that pauses between attempts are divided by, and the time a look at a
//! target may take.

/// A place; called each time the program passes it.
#[cfg(feature = "failpoints")]
pub fn hit(place: &str) -> anyhow::Result<()> {
    Ok(enabled::hit(place)?)
}

/// A place; called each time the program passes it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_place: &str) -> anyhow::Result<()> {
    Ok(())
}

/// A place that several things of one kind share: `owner:place`. Its error is that of a system call.
#[cfg(feature = "failpoints")]
pub fn hit_at(owner: &str, place: &str) -> std::io::Result<()> {
    enabled::hit(&format!("{owner}:{place}"))
}

/// A place that several things of one kind share: `owner:place`. Its error is that of a system call.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit_at(_owner: &str, _place: &str) -> std::io::Result<()> {
    Ok(())
}

/// How long to wait: as long as is meant.
#[cfg(feature = "failpoints")]
pub fn pause(meant: std::time::Duration) -> std::time::Duration {
    let haste = std::env::var("BACKUP_AGENT_FAILPOINT_HASTE").ok().and_then(|text| text.parse::<u32>().ok());
    haste.and_then(|haste| meant.checked_div(haste)).unwrap_or(meant)
}

/// How long to wait: as long as is meant.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pause(meant: std::time::Duration) -> std::time::Duration {
    meant
}

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::HashMap;
    use std::io::{self, Write};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    static PASSED: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);

    pub fn hit(place: &str) -> io::Result<()> {
        let count = {
            let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
            let count = passed.entry(place.to_owned()).or_default();
            *count += 1;
            *count
        };
        let setting = std::env::var("BACKUP_AGENT_FAILPOINT").unwrap_or_default();
        let action = setting.split_once('=').and_then(|(wanted, action)| {
            let (name, number) = wanted.split_once('#').unwrap_or((wanted, ""));
            (name == place && (number.is_empty() || number.parse() == Ok(count))).then_some(action)
        });
        trace(place, count, action.is_some());
        match action {
            None => Ok(()),
            Some("kill") => {
                let _ = kill_process(getpid(), Signal::KILL);
                Ok(())
            }
            Some("panic") => panic!("failpoint {place}"),
            Some("error") => Err(io::Error::other(format!("failpoint {place}"))),
            Some("eio") => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some("eacces") => Err(io::Error::from_raw_os_error(libc::EACCES)),
            Some("enospc") => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some("sleep") => {
                std::thread::sleep(std::time::Duration::from_secs(3600));
                Ok(())
            }
            Some("pause") => {
                let go = format!("{}.go", std::env::var("BACKUP_AGENT_FAILPOINT_TRACE").unwrap_or_default());
                while !std::path::Path::new(&go).exists() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Ok(())
            }
            Some(other) => Err(io::Error::other(format!("unknown failpoint action {other:?}"))),
        }
    }

    fn trace(place: &str, count: u64, fired: bool) {
        let Ok(path) = std::env::var("BACKUP_AGENT_FAILPOINT_TRACE") else { return };
        let fired = if fired { "fired " } else { "" };
        // One write of one line: processes may share the file.
        let line = format!("{fired}{place}#{count}\n");
        if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}
