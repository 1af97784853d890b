//! From a request to its answer.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tracing::warn;

use super::{Context, View, api, page, style};
use crate::health::Extra;
use crate::metrics;
use crate::state::Snapshot;

/// How many requests read the state at once. When all of them hang with the disk, the next ones are refused
/// and no thread more is lost.
const READERS_MAX: usize = 4;
/// How long a request waits for its turn and for the state together. Below Prometheus' default of 10 s.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) struct Answers<C> {
    context: Arc<C>,
    /// Whether the listener is on loopback, where names in `Host` are looked at.
    loopback: bool,
    ready: AtomicBool,
    readers: Arc<Semaphore>,
    /// The last state that could be read, for `/metrics`.
    last: Arc<Mutex<Option<Arc<Snapshot>>>>,
}

/// What a path answers. A table, so that 404 and 405 know the same paths.
#[derive(Debug, Clone, Copy)]
enum Route {
    Page,
    Metrics,
    Alive,
    Ready,
    Status,
}

const ROUTES: &[(&str, Route)] = &[
    ("/", Route::Page),
    ("/metrics", Route::Metrics),
    ("/healthz", Route::Alive),
    ("/readyz", Route::Ready),
    ("/api/v1/status", Route::Status),
];

impl<C: Context> Answers<C> {
    pub(super) fn new(context: Arc<C>, loopback: bool) -> Self {
        Self {
            context,
            loopback,
            ready: AtomicBool::new(false),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            last: Arc::default(),
        }
    }

    /// Never fails: what goes wrong becomes an answer that says so.
    pub(super) async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if !self.accepts_host(request) {
            let text = "This server answers only to its addresses, localhost and the name of its host.\n";
            return plain(StatusCode::MISDIRECTED_REQUEST, text);
        }
        let Some((_, route)) = ROUTES.iter().find(|(known, _)| *known == path) else {
            return plain(StatusCode::NOT_FOUND, "There is nothing here. The start page is /.\n");
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer =
                plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD: this server only reads.\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match route {
            Route::Page => self.page().await,
            Route::Metrics => {
                self.context.scraped(&user_agent(request));
                self.metrics().await
            }
            Route::Status => self.status().await,
            Route::Alive if self.context.alive() => plain(StatusCode::OK, "ok\n"),
            Route::Alive => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "The scheduler has not turned for a while.\n")
            }
            Route::Ready if self.is_ready() => plain(StatusCode::OK, "ready\n"),
            Route::Ready => plain(StatusCode::SERVICE_UNAVAILABLE, "Still starting.\n"),
        }
    }

    /// A latch: what was ready once is ready.
    fn is_ready(&self) -> bool {
        if !self.ready.load(Ordering::Relaxed) && self.context.ready() {
            self.ready.store(true, Ordering::Relaxed);
        }
        self.ready.load(Ordering::Relaxed)
    }

    fn accepts_host(&self, request: &Request<Incoming>) -> bool {
        // HTTP/1.0 clients send none, browsers always do.
        let Some(host) = request.headers().get(HOST).filter(|_| self.loopback) else { return true };
        host.to_str().is_ok_and(|host| is_own_host(host, &self.context.config().host_name()))
    }

    async fn page(&self) -> Answer {
        match self.view().await {
            Ok(view) => html(StatusCode::OK, page::render(&view)),
            Err(error) => {
                let config = self.context.config();
                html(
                    StatusCode::SERVICE_UNAVAILABLE,
                    page::unreadable(&config.host_name(), &format!("{error:#}")),
                )
            }
        }
    }

    async fn status(&self) -> Answer {
        let (code, body) = match self.view().await {
            Ok(view) => (StatusCode::OK, serde_json::to_vec(&api::Status::new(&view, self.is_ready()))),
            Err(error) => {
                let problem = api::Problem { error: format!("{error:#}") };
                (StatusCode::SERVICE_UNAVAILABLE, serde_json::to_vec(&problem))
            }
        };
        match body {
            Ok(body) => answer(code, "application/json", body),
            Err(error) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("The status has no JSON form: {error}\n"))
            }
        }
    }

    async fn metrics(&self) -> Answer {
        let view = match self.view().await {
            Ok(view) => Ok(view),
            Err(error) => self.stale_view().ok_or(error),
        };
        let facts = view.as_ref().ok().map(|view| metrics::Facts {
            snapshot: Arc::clone(&view.snapshot),
            config: Arc::clone(&view.config),
            progress: view.progress.iter().filter_map(|(job, p)| Some((job.clone(), p.ratio()?))).collect(),
            now: view.now,
        });
        // Reads /proc, which does not block, and a few hundred lines are written: no need for the pool.
        match metrics::render_for_http(facts.as_ref()) {
            Ok(text) => match view {
                Ok(_) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(error) => {
                    let reason = format!("{error:#}").replace(['\n', '\r'], " ");
                    let text = format!("# The state cannot be read: {reason}\n{text}");
                    answer(StatusCode::SERVICE_UNAVAILABLE, metrics::CONTENT_TYPE, text)
                }
            },
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")),
        }
    }

    /// Reads the state on the blocking pool. The thread holds the reader's place until it is done, also when
    /// nobody waits for it any more.
    async fn view(&self) -> Result<View> {
        let read = async {
            let place = Arc::clone(&self.readers).acquire_owned().await?;
            let (context, last) = (Arc::clone(&self.context), Arc::clone(&self.last));
            let task = tokio::task::spawn_blocking(move || {
                let _place = place;
                let snapshot = Arc::new(context.snapshot()?);
                *last.lock().unwrap_or_else(|e| e.into_inner()) = Some(Arc::clone(&snapshot));
                Ok::<_, anyhow::Error>((snapshot, context.extra()))
            });
            let (snapshot, extra) = task.await.context("reading the state")??;
            Ok(self.view_of(snapshot, extra))
        };
        let result = match tokio::time::timeout(READ_TIMEOUT, read).await {
            Ok(result) => result,
            Err(_) => {
                Err(anyhow!("the state was not read within {} s: is its disk busy?", READ_TIMEOUT.as_secs()))
            }
        };
        result.inspect_err(|error: &anyhow::Error| warn!("a page could not read the state: {error:#}"))
    }

    /// The last state that could be read, with what is known without it.
    fn stale_view(&self) -> Option<View> {
        let last = self.last.lock().unwrap_or_else(|e| e.into_inner()).clone()?;
        Some(self.view_of(last, Extra::default()))
    }

    fn view_of(&self, snapshot: Arc<Snapshot>, extra: Extra) -> View {
        let config = self.context.config();
        let progress =
            config.job.keys().filter_map(|job| Some((job.clone(), self.context.progress(job)?))).collect();
        View { snapshot, config, extra, progress, now: self.context.now() }
    }
}

/// Whether a `Host` header names this server: an address of any kind (a name is what an attacker would let
/// resolve to us), `localhost`, or the host's own name; with or without a port.
fn is_own_host(header: &str, own: &str) -> bool {
    let name = match header.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => header.rsplit_once(':').map_or(header, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || name == own.to_ascii_lowercase()
}

/// What a client calls itself, cut and harmless.
fn user_agent(request: &Request<Incoming>) -> String {
    let named = request.headers().get(USER_AGENT).and_then(|name| name.to_str().ok()).unwrap_or("unknown");
    named.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn plain(code: StatusCode, text: &str) -> Answer {
    answer(code, "text/plain; charset=utf-8", text.to_owned())
}

fn html(code: StatusCode, text: String) -> Answer {
    answer(code, "text/html; charset=utf-8", text)
}

fn answer(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-security-policy", style::content_security_policy()),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if code == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("15"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::is_own_host;

    #[test]
    fn addresses_localhost_and_the_own_name_are_own_and_other_names_are_not() {
        for host in
            ["127.0.0.1:9736", "127.0.0.1", "[::1]:9736", "[::1]", "localhost", "LOCALHOST:1", "Db1:9736"]
        {
            assert!(is_own_host(host, "db1"), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9736", "127.0.0.1.evil.example", "", "localhost.evil.example"]
        {
            assert!(!is_own_host(host, "db1"), "{host}");
        }
    }
}
