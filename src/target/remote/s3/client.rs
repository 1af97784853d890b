//! Requests to a bucket: signed, within limits of time, their failures told apart.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, Url};

use super::S3Settings;
use super::body::{Body, Payload, Taken};
use super::error::{Answer, Fault};
use super::sign::{self, Credentials, Signed};
use super::xml;
use crate::clock::Clock;
use crate::failpoint;

/// How much of an answer that is read as a whole may come: a page of a listing has some hundred kilobytes.
const LONGEST_ANSWER: usize = 32 << 20;
/// How much of a refusal is read.
const LONGEST_REFUSAL: usize = 64 << 10;

/// How long things may take, and how often they are tried.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Without any byte going or coming.
    pub idle: Duration,
    /// How often a piece of an upload is sent before the upload fails.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles, up to [`Limits::longest_pause`].
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            attempts: 6,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(20),
        }
    }
}

/// A bucket, and how it is reached.
pub(super) struct Client {
    http: reqwest::Client,
    /// Scheme, host and port, and what stands before the key in a path.
    origin: String,
    above: String,
    host: String,
    /// The address of the store for people.
    pub(super) endpoint: String,
    pub(super) region: String,
    bucket: String,
    /// With a slash at its end, unless empty.
    prefix: String,
    credentials: Credentials,
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
}

/// One request.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Relative to the root; none for the bucket itself.
    pub(super) key: Option<String>,
    pub(super) query: Vec<(&'static str, String)>,
    /// Names in lower case.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload,
    /// How many times the idle limit an answer may take when everything is sent.
    pub(super) patience: u32,
}

impl Call {
    pub(super) fn new(method: Method, key: Option<&str>) -> Self {
        // Short questions are answered soon; what carries a body may be stored first.
        let patience = if matches!(method, Method::PUT | Method::POST) { 2 } else { 1 };
        Self {
            method,
            key: key.map(str::to_owned),
            query: Vec::new(),
            headers: Vec::new(),
            payload: Payload::empty(),
            patience,
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// An answer that was read as a whole.
pub(super) struct Answered {
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

/// A header as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Client {
    /// `http` has the limits of the same settings.
    pub(super) fn new(settings: &S3Settings, http: reqwest::Client) -> Result<Self> {
        let endpoint = settings.endpoint.clone();
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", settings.region));
        let url = Url::parse(&endpoint).with_context(|| format!("`endpoint` {endpoint:?} is no address"))?;
        let Some(name) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
            bail!("`endpoint` {endpoint:?} must begin with https:// or http://");
        };
        let is_aws = name.ends_with(".amazonaws.com") || name.ends_with(".amazonaws.com.cn");
        // A certificate for one level of names does not match a bucket with a dot.
        let in_path = settings.path_style.unwrap_or(!is_aws || settings.bucket.contains('.'));
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        let base = url.path().trim_end_matches('/');
        let (host, above) = match in_path {
            true => (format!("{name}{port}"), format!("{base}/{}", sign::encode(&settings.bucket, false))),
            false => (format!("{}.{name}{port}", settings.bucket), base.to_owned()),
        };
        let prefix = settings.prefix.trim_matches('/');
        Ok(Self {
            http,
            origin: format!("{}://{host}", url.scheme()),
            above,
            host,
            endpoint: format!("{}://{name}{port}{base}", url.scheme()),
            region: settings.region.clone(),
            bucket: settings.bucket.clone(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            credentials: Credentials {
                key_id: settings.access_key_id.clone(),
                secret: settings.secret_access_key.clone(),
            },
            limits: settings.limits,
            clock: Arc::clone(&settings.clock),
        })
    }

    /// A key as the bucket knows it.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What the bucket's key is here; none for one of somebody else.
    pub(super) fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        full.strip_prefix(&self.prefix)
    }

    pub(super) fn address(&self, key: &str) -> String {
        let full = self.full(key);
        match full.trim_end_matches('/') {
            "" => format!("s3://{}", self.bucket),
            full => format!("s3://{}/{full}", self.bucket),
        }
    }

    /// Makes an error of a fault. `doing` is a word such as `reading`.
    pub(super) fn error(&self, fault: Fault, doing: &str, key: &str) -> anyhow::Error {
        fault.into_error(&format!("{doing} {}", self.address(key)), &self.endpoint, &self.region)
    }

    /// Sends a request once. Only an answer of the class 2xx is one.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, Fault> {
        let now = self.clock.now();
        let path = match &call.key {
            Some(key) => format!("{}/{}", self.above, sign::encode(&self.full(key), true)),
            None if self.above.is_empty() => "/".to_owned(),
            None => self.above.clone(),
        };
        let parts: Vec<(&str, &str)> =
            call.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let query = sign::query(&parts);
        let mut headers: Vec<(String, String)> = vec![
            ("host".to_owned(), self.host.clone()),
            ("x-amz-date".to_owned(), sign::stamp(now)),
            ("x-amz-content-sha256".to_owned(), call.payload.sha256.clone()),
        ];
        if let Some(md5) = &call.payload.md5 {
            headers.push(("content-md5".to_owned(), md5.clone()));
        }
        let mut plain = Vec::new();
        for (name, value) in &call.headers {
            // Others may be changed on the way, by a proxy say.
            let list = if name.starts_with("x-amz-") { &mut headers } else { &mut plain };
            list.push(((*name).to_owned(), value.clone()));
        }
        let signed = Signed {
            method: call.method.as_str(),
            path: &path,
            query: &query,
            headers: &headers,
            body: &call.payload.sha256,
        };
        let authorization = sign::authorization(&self.credentials, &self.region, now, &signed);
        let address = match query.as_str() {
            "" => format!("{}{path}", self.origin),
            query => format!("{}{path}?{query}", self.origin),
        };
        let url = Url::parse(&address).map_err(|e| Fault::broken(format!("{address} is no address: {e}")))?;
        let mut request = self.http.request(call.method.clone(), url);
        for (name, value) in headers.iter().chain(&plain).filter(|(name, _)| name != "host") {
            request = request.header(name, value);
        }
        let taken = Taken::default();
        if !matches!(call.method, Method::GET | Method::HEAD | Method::DELETE) {
            request =
                request.body(reqwest::Body::wrap(Body::new(call.payload.source.clone(), taken.clone())));
        }
        let response = self.watched(request.header("authorization", authorization), &taken, call).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response, now).await)
    }

    /// Waits for an answer as long as bytes go, and then for a limited time.
    async fn watched(
        &self,
        request: reqwest::RequestBuilder,
        taken: &Taken,
        call: &Call,
    ) -> Result<Response, Fault> {
        let sending = request.send();
        tokio::pin!(sending);
        let (mut last, mut quiet) = (taken.get(), 0);
        loop {
            tokio::select! {
                answer = &mut sending => return answer.map_err(|e| Fault::unreached(&e)),
                () = tokio::time::sleep(self.limits.idle) => {}
            }
            quiet = if taken.get() == last { quiet + 1 } else { 0 };
            last = taken.get();
            if quiet >= call.patience {
                let seconds = (self.limits.idle * call.patience).as_secs();
                return Err(Fault::broken(format!("nothing moved for {seconds} seconds")));
            }
        }
    }

    async fn refusal(&self, response: Response, now: chrono::DateTime<chrono::Utc>) -> Fault {
        let status = response.status().as_u16();
        let owned = |name| header(response.headers(), name).map(str::to_owned);
        let (region, date) = (owned("x-amz-bucket-region"), owned("date"));
        let body = self.text(response, LONGEST_REFUSAL).await.unwrap_or_default();
        let body = xml::error(&body).unwrap_or_default();
        Fault::Answer(Box::new(Answer { status, body, region, date, signed: Some(now) }))
    }

    /// The next piece of an answer; none at its end.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.limits.idle, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|e| Fault::unreached(&e)),
            Err(_) => {
                let seconds = self.limits.idle.as_secs();
                Err(Fault::broken(format!("nothing came for {seconds} seconds")))
            }
        }
    }

    async fn text(&self, mut response: Response, longest: usize) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if bytes.len() + chunk.len() > longest {
                return Err(Fault::broken(format!("the answer is longer than {longest} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a request once, and reads the answer. An error in an answer that began as a success is one, too.
    pub(super) async fn exchange(&self, call: &Call) -> Result<Answered, Fault> {
        let response = self.send(call).await?;
        let headers = response.headers().clone();
        let text = self.text(response, LONGEST_ANSWER).await?;
        match xml::error(&text) {
            Some(body) => Err(Fault::Answer(Box::new(Answer { status: 500, body, ..Answer::default() }))),
            None => Ok(Answered { headers, text }),
        }
    }

    /// The same, tried again as long as that may help. With a fault comes whether an attempt may have been
    /// carried out although its answer was lost.
    pub(super) async fn persist(&self, call: &Call) -> Result<Answered, (Fault, bool)> {
        let (mut pause, mut ambiguous) = (self.limits.pause, false);
        for attempt in 1.. {
            match self.exchange(call).await {
                Ok(answered) => return Ok(answered),
                Err(fault) if !fault.passes() || attempt >= self.limits.attempts => {
                    return Err((fault, ambiguous));
                }
                Err(fault) => {
                    ambiguous |= fault.is_ambiguous();
                    let key = call.key.as_deref().unwrap_or_default();
                    tracing::debug!("sending again: {:#}", self.error(fault, "writing", key));
                    tokio::time::sleep(failpoint::pause(pause.mul_f64(rand::random_range(0.7..1.3)))).await;
                    pause = (pause * 2).min(self.limits.longest_pause);
                }
            }
        }
        Err((Fault::broken("it was not tried"), false))
    }
}
