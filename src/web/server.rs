//! Connections: accepted, bounded in number, time and size, and drained at the end.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::Context;
use super::answers::Answers;
use super::encoding;

/// Connections served at once; the rest wait in the kernel's queue. Each costs a buffer and a descriptor.
const CONNECTIONS_MAX: usize = 64;
/// A client must have sent a request's head within this time, also the next one on a kept connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// No connection lives longer: one that takes no bytes would hold its place for ever. Prometheus opens a new
/// one without losing a scrape.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Largest head of a request; a browser's is below 2 KiB.
const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// How long the end waits for answers that are under way.
const DRAIN: Duration = Duration::from_secs(3);
/// How long to wait after an accept that failed, as it does at once again while descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown` resolves, then lets answers under way end for up to 3 seconds.
///
/// Errors only when the listener has no address, which means that it is none; failed connections are logged.
pub async fn serve<C: Context>(
    listener: TcpListener,
    context: Arc<C>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let address = listener.local_addr().context("asking the HTTP listener for its address")?;
    let answers = Arc::new(Answers::new(context, address.ip().is_loopback()));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut shutdown => break,
        };
        let Some((stream, place)) = accepted else { continue };
        let answers = Arc::clone(&answers);
        let service = service_fn(move |request| {
            let answers = Arc::clone(&answers);
            async move {
                let answer = answers.answer(&request).await;
                Ok::<_, Infallible>(encoding::fitting(answer, request.headers()).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            match tokio::time::timeout(CONNECTION_LIFE, connection).await {
                Ok(Ok(())) | Err(_) => {}
                // A client that went away or talks nonsense is nobody's fault here.
                Ok(Err(error)) => debug!("a connection to the HTTP server ended: {error}"),
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        debug!("connections to the HTTP server were still open when it ended");
    }
    Ok(())
}

/// The next connection with its place; none when accepting failed and was reported.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are one write; waiting for more to send only delays them.
            if let Err(error) = stream.set_nodelay(true) {
                debug!("setting TCP_NODELAY: {error}");
            }
            Some((stream, place))
        }
        Err(error) => {
            warn!("the HTTP server could not accept a connection, it goes on: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
