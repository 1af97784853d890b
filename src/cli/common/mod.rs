//! What every verb needs first: the configuration, the state, logging.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | errors of usage, how the program is called here, signals |
//! | `configuration` | the configuration, good, kept or made up |
//! | `logs` | logging |
//! | `opening` | the state, for writing or reading, or what manifests say in its place |
//! | `finding` | the job, the run and the copy that are meant |

mod configuration;
mod finding;
mod logs;
mod opening;

pub use self::configuration::{Begun, begin, config_error, embedded, load};
pub use self::finding::{find_run, find_run_at, known_job, known_target, nearest, only_job};
pub use self::logs::{BESIDE_ANSWER, init_log, log_settings, start_log};
pub use self::opening::{
    open, open_backup, open_backups, open_backups_to_change, open_existing, open_reading, publish,
};

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::args::Global;
use super::code;
use crate::ops::{isolate, tell};

/// An error of usage or configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// How this program is called here, for the commands in messages.
pub fn command(global: &Global) -> String {
    let quoted = |path: &PathBuf| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
        if absolute.contains(char::is_whitespace) { format!("'{absolute}'") } else { absolute }
    };
    match (&global.config, &global.backups) {
        (Some(config), _) => format!("agent --config {}", quoted(config)),
        (_, Some(folder)) => format!("agent --backups {}", quoted(folder)),
        _ => "agent".to_owned(),
    }
}

/// A text whose commands (`` `agent …` ``) name the configuration that is in use here, but for those that name one
/// already, or do without.
pub fn as_called(global: &Global, text: &str) -> String {
    spelled_out(&command(global), text)
}

fn spelled_out(command: &str, text: &str) -> String {
    const AS_THEY_ARE: [&str; 6] =
        ["--config ", "--backups ", "backup --source", "backup --to", "run --now", "config init"];
    let mut pieces = text.split("`agent ");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for rest in pieces {
        let stays = AS_THEY_ARE.iter().any(|words| rest.starts_with(words));
        out.push_str(&format!("`{} {rest}", if stays { "agent" } else { command }));
    }
    out
}

/// The child's side of work on a target.
pub fn target_io() -> Result<u8> {
    isolate::serve(&mut io::stdin().lock(), &mut io::stdout())?;
    Ok(code::OK)
}

/// Asks `progress` to stop at SIGINT, SIGTERM or SIGHUP; a second signal ends the process at once.
pub fn stop_on_signals(progress: &Arc<crate::event::Progress>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let progress = Arc::clone(progress);
    let (ready, installed) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let listening = tell::block_on(async {
            let mut signals = (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            );
            let _ = ready.send(());
            for count in 1.. {
                tokio::select! {
                    _ = signals.0.recv() => {}
                    _ = signals.1.recv() => {}
                    _ = signals.2.recv() => {}
                }
                if count > 1 {
                    #[allow(clippy::disallowed_methods)] // asked for twice: nothing is waited for any more
                    std::process::exit(i32::from(code::INTERRUPTED));
                }
                tracing::warn!("stopping; leftovers are removed (again: stop at once)");
                progress.cancel();
            }
            io::Result::Ok(())
        });
        if let Ok(Err(e)) | Err(e) = listening.map(|r| r.map_err(anyhow::Error::from)) {
            tracing::error!("listening for signals: {e:#}");
        }
    })?;
    // A signal that comes before this would end the process the hard way.
    let _ = installed.recv_timeout(std::time::Duration::from_secs(5));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_configuration_once_and_only_where_they_need_one() {
        let spelled = |text| spelled_out("agent --config /x.toml", text);
        assert_eq!(
            spelled("see `agent ls 1`, `agent cat 1 f`"),
            "see `agent --config /x.toml ls 1`, `agent --config /x.toml cat 1 f`"
        );
        for as_it_is in [
            "`agent --config /y.toml copies`",
            "`agent backup --to DIR` or `agent run --now`",
            "the agent ran",
        ] {
            assert_eq!(spelled(as_it_is), as_it_is);
        }
    }
}
