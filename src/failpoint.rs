//! Places where a test can make things go wrong. Without the Cargo feature `failpoints` they are nothing.
//!
//! With it, the environment variable `BACKUP_AGENT_FAILPOINT` names a place and what happens there:
//! `publish=kill` ends the process with SIGKILL, `publish=panic` panics, `publish=error` fails.

/// A place; called each time the program passes it.
#[cfg(feature = "failpoints")]
pub fn hit(place: &str) -> anyhow::Result<()> {
    let Ok(setting) = std::env::var("BACKUP_AGENT_FAILPOINT") else { return Ok(()) };
    match setting.split_once('=') {
        Some((name, action)) if name == place => match action {
            "kill" => {
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                Ok(())
            }
            "panic" => panic!("failpoint {place}"),
            "error" => anyhow::bail!("failpoint {place}"),
            "sleep" => {
                std::thread::sleep(std::time::Duration::from_secs(3600));
                Ok(())
            }
            other => anyhow::bail!("unknown failpoint action {other:?}"),
        },
        _ => Ok(()),
    }
}

/// A place; called each time the program passes it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_place: &str) -> anyhow::Result<()> {
    Ok(())
}
