//! From a request to its answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, REFRESH, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tracing::warn;

use super::request::{NoRoute, Route, is_own_host, is_watched, route};
use super::{Context, View, api, frame, job_page, json, overview, run_page, style};
use crate::health::Extra;
use crate::metrics;
use crate::model::{JobName, RunId};
use crate::state::Snapshot;

/// How many requests read the state at once. When all of them hang with the disk, the next ones are refused
/// and no thread more is lost.
const READERS_MAX: usize = 4;
/// How long a request waits for its turn and for the state together. Below Prometheus' default of 10 s.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// How often a page reloads whose reader asked for that, in seconds.
const RELOAD: &str = "60";

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
        if !self.accepts_host(request) {
            let text = "This server answers only to its addresses, localhost and the name of its host.\n";
            return plain(StatusCode::MISDIRECTED_REQUEST, text);
        }
        let route = match route(request.uri().path()) {
            Ok(route) => route,
            Err(NoRoute::Other) => {
                return plain(StatusCode::NOT_FOUND, "There is nothing here. The start page is /.\n");
            }
            Err(NoRoute::Job) => return self.not_found(NO_JOB),
            Err(NoRoute::Run) => return self.not_found(NO_RUN),
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer =
                plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD: this server only reads.\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let watched = is_watched(request.uri().query());
        match route {
            Route::Overview => self.overview(watched).await,
            Route::Job(name) => self.job(name, watched).await,
            Route::Run(id) => self.run(id, watched).await,
            Route::Icon(svg) => answer(StatusCode::OK, "image/svg+xml", svg),
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

    async fn overview(&self, watched: bool) -> Answer {
        let page = self.read(move |context, view| {
            // Only runs that have any: most have none, and the page lists a few of the last run of each job.
            let last_runs = view.snapshot.jobs.iter().filter_map(|job| job.last_run.as_ref());
            let with_warnings = last_runs.filter(|run| run.warning_counts.total() > 0);
            let runs: Vec<RunId> = with_warnings.map(|run| run.run_id.clone()).collect();
            let warnings = if runs.is_empty() { Default::default() } else { context.warnings(&runs)? };
            Ok(Some(overview::render(&view.watched(watched), &warnings)?))
        });
        self.page(page.await, watched, NO_JOB)
    }

    async fn job(&self, name: JobName, watched: bool) -> Answer {
        let page = self.read(move |context, view| {
            let record = context.job_record(&name, job_page::RUNS)?;
            Ok(job_page::render(&view.watched(watched), &name, &record)?)
        });
        self.page(page.await, watched, NO_JOB)
    }

    async fn run(&self, id: RunId, watched: bool) -> Answer {
        let page = self.read(move |context, view| {
            let Some(record) = context.run_record(&id)? else { return Ok(None) };
            Ok(Some(run_page::render(&view.watched(watched), &record)?))
        });
        self.page(page.await, watched, NO_RUN)
    }

    /// A page, or what is said instead of it.
    fn page(&self, page: Result<Option<String>>, watched: bool, missing: &'static str) -> Answer {
        match page {
            Ok(Some(page)) => {
                let mut answer = html(StatusCode::OK, page);
                if watched {
                    answer.headers_mut().insert(REFRESH, HeaderValue::from_static(RELOAD));
                }
                answer
            }
            Ok(None) => self.not_found(missing),
            Err(error) => {
                let host = self.context.config().host_name();
                rendered(StatusCode::SERVICE_UNAVAILABLE, frame::unreadable(&host, &format!("{error:#}")))
            }
        }
    }

    fn not_found(&self, what: &'static str) -> Answer {
        rendered(StatusCode::NOT_FOUND, frame::not_found(&self.context.config().host_name(), what))
    }

    async fn status(&self) -> Answer {
        let (code, body) = match self.view().await {
            Ok(view) => (StatusCode::OK, json::to_vec(&api::Status::new(&view, self.is_ready()))),
            Err(error) => {
                let problem = api::Problem { error: format!("{error:#}") };
                (StatusCode::SERVICE_UNAVAILABLE, json::to_vec(&problem))
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

    async fn view(&self) -> Result<View> {
        self.read(|_, view| Ok(view)).await
    }

    /// Reads the state, and makes something of it, on the blocking pool. The thread holds the reader's place
    /// until it is done, also when nobody waits for it any more.
    async fn read<T: Send + 'static>(
        &self,
        make: impl FnOnce(&C, View) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let read = async {
            let place = Arc::clone(&self.readers).acquire_owned().await?;
            let (context, last) = (Arc::clone(&self.context), Arc::clone(&self.last));
            let task = tokio::task::spawn_blocking(move || {
                let _place = place;
                let snapshot = context.snapshot()?;
                *last.lock().unwrap_or_else(|e| e.into_inner()) = Some(Arc::clone(&snapshot));
                let extra = context.extra();
                let view = view_of(&*context, snapshot, extra);
                make(&context, view)
            });
            task.await.context("reading the state")?
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
        Some(view_of(&*self.context, last, Extra::default()))
    }
}

fn view_of(context: &impl Context, snapshot: Arc<Snapshot>, extra: Extra) -> View {
    let config = context.config();
    let progress = config.job.keys().filter_map(|job| Some((job.clone(), context.progress(job)?))).collect();
    View { snapshot, config, extra, progress, now: context.now(), command: context.command(), watched: false }
}

const NO_JOB: &str = "There is no such job, neither in the configuration nor in the history.";
const NO_RUN: &str = "There is no such run in the history.";

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

/// A page of one sentence, whose template can hardly fail.
fn rendered(code: StatusCode, page: askama::Result<String>) -> Answer {
    match page {
        Ok(page) => html(code, page),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("The page was not made: {error}\n")),
    }
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
