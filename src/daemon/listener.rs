//! The HTTP address: bound at the start, moved by a reload, waited for while somebody else has it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use super::context::Shared;
use super::reload::tell_agent;
use crate::web;

/// How long to wait before an address that is taken is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Binds `address`. The error says who has it, and what to change.
pub(super) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let holder = match error.kind() {
            io::ErrorKind::AddrInUse => holder(address).map(|who| format!(", held by {who}")).unwrap_or_default(),
            _ => String::new(),
        };
        anyhow::anyhow!(
            "cannot serve the status page and /metrics at {address}: {error}{holder}; say another address (`listen`, or `agent run --listen 127.0.0.1:0` for any that is free), or end what holds this one"
        )
    })
}

/// Serves at the address that is wanted, until `stop`. `first` is already bound to it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut first: Option<TcpListener>,
    mut wanted: watch::Receiver<SocketAddr>,
    mut stop: watch::Receiver<bool>,
) {
    let mut told = false;
    loop {
        let address = *wanted.borrow_and_update();
        let bound = match first.take() {
            Some(listener) => Ok(listener),
            None => bind(address).await,
        };
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => {
                if !told {
                    told = true;
                    tell(&shared, &format!("{error:#}")).await;
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => continue,
                    changed = wanted.changed() => if changed.is_ok() { continue } else { return },
                    _ = stop.changed() => return,
                }
            }
        };
        told = false;
        if let Ok(address) = listener.local_addr() {
            tracing::info!("status page at http://{address}/, metrics at http://{address}/metrics");
            shared.watcher.listening(address);
        }
        let (end, ended) = oneshot::channel::<()>();
        let server = web::serve(listener, Arc::clone(&shared), async {
            // An error means that the other half is gone, which ends it too.
            let _ = ended.await;
        });
        let mut server = tokio::spawn(server);
        let moves = tokio::select! {
            changed = wanted.changed() => changed.is_ok(),
            _ = stop.changed() => false,
            result = &mut server => {
                tracing::error!("the HTTP server ended, it is started again: {result:?}");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        // The old address is let go first: the new one may cover it.
        drop(end);
        let _ = server.await;
        if !moves {
            return;
        }
    }
}

async fn tell(shared: &Arc<Shared>, problem: &str) {
    tracing::error!("{problem}. Backups go on; it is tried again every {} s", RETRY.as_secs());
    let (shared, problem) = (Arc::clone(shared), problem.to_owned());
    let queued = tokio::task::spawn_blocking(move || {
        tell_agent(
            &shared,
            "the metrics cannot be served",
            "Backups go on as scheduled, but the status page and /metrics are not there, so that a monitoring system sees nothing",
            &problem,
            "End what holds the address, or set `listen` to another one and reload",
        );
    });
    if let Err(error) = queued.await {
        tracing::error!("a message could not be queued: {error}");
    }
}

/// Who listens at the port of `address`, as far as /proc tells this user.
fn holder(address: SocketAddr) -> Option<String> {
    const LISTENING: &str = "0A";
    let port = format!(":{:04X}", address.port());
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let inodes: Vec<String> = tables
        .flat_map(|table| {
            let sockets = table.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTENING;
                listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
            });
            sockets.collect::<Vec<_>>()
        })
        .collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find_map(|pid| {
        let mut files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok);
        let holds = files.any(|file| {
            fs::read_link(file.path())
                .is_ok_and(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
        });
        let name = || fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim().to_owned());
        holds.then(|| format!("process {pid} ({})", name().unwrap_or_else(|_| "unknown".to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_with_who_has_it_and_which_key_to_change() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        let own = format!("held by process {}", std::process::id());
        for part in [address.to_string().as_str(), &own, "`listen`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
