//! Buckets of AWS and of stores that speak its protocol, S3.
//!
//! One request at a time is blocking for the caller; below it the threads of the store's HTTP send the parts
//! of an upload at the same time. Everything is signed with the digest of the body, so that the store refuses what
//! changed on the way.

mod body;
mod client;
mod error;
mod listing;
mod plan;
mod read;
mod sign;
mod upload;
mod xml;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use reqwest::Method;

pub use client::Limits;
pub use plan::{PartPlan, Tier};

use self::client::{Call, Client, header};
use self::error::Fault;
use super::http::{Http, HttpSettings};
use super::patient::into_io;
use super::{Entry, Kept, Mode, Object, Store, Tree, Upload};
use crate::clock::{Clock, SystemClock};
use crate::config::{ObjectLock, S3Place, TargetConfig, resolve_secret};
use crate::model::Secret;
use crate::target::Space;

/// Threads that send and receive: several parts are on their way at once, and encrypting them is work.
const THREADS: usize = 2;

/// Where a bucket is, and how it is used.
#[derive(Clone)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// Address of the store; that of AWS for the region when absent.
    pub endpoint: Option<String>,
    /// The region requests are signed for.
    pub region: String,
    /// Put before every key.
    pub prefix: String,
    /// The bucket stands in the path; when absent, unless it is AWS.
    pub path_style: Option<bool>,
    /// Name of the access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// A PEM file with authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How objects are locked; not at all when absent.
    pub lock: Option<Lock>,
    /// The credentials may only write.
    pub write_only: bool,
    /// How objects are cut.
    pub plan: PartPlan,
    /// Limits of time.
    pub limits: Limits,
    /// What requests are dated by.
    pub clock: Arc<dyn Clock>,
}

impl S3Settings {
    /// A bucket with what is usual for the rest.
    pub fn new(bucket: &str, access_key_id: &str, secret_access_key: Secret) -> Self {
        Self {
            bucket: bucket.to_owned(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            prefix: String::new(),
            path_style: None,
            access_key_id: access_key_id.to_owned(),
            secret_access_key,
            ca_file: None,
            lock: None,
            write_only: false,
            plan: PartPlan::default(),
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// Objects cannot be removed for some time, not even by who wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who may shorten it.
    pub mode: LockMode,
    /// For how long from when an object is written.
    pub period: Duration,
}

/// Who may shorten a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Those with a permission of its own.
    Governance,
    /// Nobody.
    Compliance,
}

impl LockMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

impl Lock {
    fn until(self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let period = chrono::TimeDelta::from_std(self.period).ok();
        period
            .and_then(|period| now.checked_add_signed(period))
            .context("objects cannot be locked for that long")
    }
}

/// A bucket as a store.
pub struct S3Store {
    inner: Arc<Inner>,
}

/// What an object or upload needs of its store.
struct Inner {
    client: Arc<Client>,
    http: Http,
    lock: Option<Lock>,
    write_only: bool,
    plan: PartPlan,
    /// Whether the store takes conditions of writes; until it says that it does not.
    conditional: AtomicBool,
}

/// What a part on its way needs. Not the threads it is sent by, which end with the store.
struct ForTask {
    client: Arc<Client>,
}

impl Inner {
    /// Waits for something on the store's threads.
    fn wait<F: Future>(&self, future: F) -> F::Output {
        self.http.handle().block_on(future)
    }

    fn for_task(&self) -> Arc<ForTask> {
        Arc::new(ForTask { client: Arc::clone(&self.client) })
    }

    /// Makes an error of the answer to a HEAD, which has no words: those of a GET have.
    fn explained(&self, fault: Fault, key: &str) -> anyhow::Error {
        let mut fault = fault;
        if fault.status() != 0 && fault.code().is_empty() {
            let call = Call::new(Method::GET, Some(key)).header("range", "bytes=0-0");
            if let Err(said) = self.wait(self.client.exchange(&call)) {
                fault = said;
            }
        }
        self.client.error(fault, "reading", key)
    }
}

impl S3Store {
    /// Checks the settings; no connection is made. The process must have installed a TLS provider before.
    ///
    /// # Errors
    /// An endpoint that is none, a certificate that cannot be read.
    pub fn new(settings: S3Settings) -> Result<Self> {
        let http = Http::new(&HttpSettings {
            ca_file: settings.ca_file.clone(),
            silence: settings.limits.idle,
            threads: THREADS,
        })?;
        let client = Arc::new(Client::new(&settings, http.client().clone())?);
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                http,
                lock: settings.lock,
                write_only: settings.write_only,
                plan: settings.plan,
                conditional: AtomicBool::new(true),
            }),
        })
    }

    /// Until when an object cannot be removed; none for one that can, or is not there.
    ///
    /// # Errors
    /// As of all operations of a [`Store`].
    pub fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>> {
        let call = Call::new(Method::HEAD, Some(key));
        match self.inner.wait(self.inner.client.exchange(&call)) {
            Ok(answer) => {
                let until = header(&answer.headers, "x-amz-object-lock-retain-until-date");
                let until = until.and_then(|until| DateTime::parse_from_rfc3339(until).ok());
                let now = self.inner.client.clock.now();
                Ok(until.map(|until| until.to_utc()).filter(|until| *until > now))
            }
            Err(fault) if fault.is_missing() => Ok(None),
            Err(fault) => Err(self.inner.explained(fault, key)),
        }
    }
}

/// Makes a store of what the configuration says. Large parts wait in `scratch`, where it is given.
///
/// # Errors
/// A secret or a certificate that cannot be read.
pub fn open(place: &S3Place, target: &TargetConfig, scratch: Option<&Path>) -> Result<S3Store> {
    let secret = resolve_secret(place.secret_access_key.as_ref(), place.secret_access_key_file.as_deref())?;
    let secret = secret.context("it has no secret for its access key")?;
    let mode = place.object_lock.map(|lock| match lock {
        ObjectLock::Governance => LockMode::Governance,
        ObjectLock::Compliance => LockMode::Compliance,
    });
    let lock = match mode {
        Some(mode) => {
            let period = target.lock_period().context("nothing says how long objects are locked")?;
            Some(Lock { mode, period })
        }
        None => None,
    };
    let mut plan = PartPlan::default();
    if let Some(scratch) = scratch {
        plan.folder = scratch.to_owned();
    }
    S3Store::new(S3Settings {
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        prefix: place.prefix.clone(),
        path_style: place.path_style,
        ca_file: place.http.ca_file.clone(),
        lock,
        write_only: place.write_only,
        plan,
        limits: Limits { idle: place.http.timeout, ..Limits::default() },
        ..S3Settings::new(&place.bucket, &place.access_key_id, secret)
    })
}

impl Store for S3Store {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn address(&self, key: &str) -> String {
        self.inner.client.address(key)
    }

    fn probe(&self) -> Result<Option<Space>> {
        let client = &self.inner.client;
        let call = Call::new(Method::GET, None)
            .query("list-type", "2")
            .query("max-keys", "1")
            .query("prefix", client.full(""));
        match self.inner.wait(client.exchange(&call)) {
            Ok(_) => Ok(None),
            // Asked after the signature and the bucket were found to be right.
            Err(fault) if self.inner.write_only && fault.code() == "AccessDenied" => Ok(None),
            Err(fault) => Err(client.error(fault, "looking at", "")),
        }
    }

    fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>> {
        Ok(Box::new(upload::S3Upload::new(Arc::clone(&self.inner), key, mode)?))
    }

    fn open(&self, key: &str) -> Result<Option<Box<dyn Object>>> {
        let found = read::S3Object::find(Arc::clone(&self.inner), key)?;
        Ok(found.map(|object| Box::new(object) as Box<dyn Object>))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        listing::list(&self.inner, folder)
    }

    fn find(&self, name: &str) -> Result<Option<Vec<String>>> {
        listing::find(&self.inner, name).map(Some)
    }

    fn delete(&self, key: &str) -> Result<()> {
        // A bucket with versions would hide it, and keep what is in it.
        if let Some(until) = self.locked_until(key)? {
            return Err(Kept { address: self.address(key), until: Some(until) }.into());
        }
        listing::delete(&self.inner, key)
    }

    fn put_away(&self, key: &str) -> Result<()> {
        listing::delete(&self.inner, key)
    }

    fn discard(&self, folder: &str) -> Result<()> {
        listing::discard(&self.inner, folder)
    }

    fn tree(&self) -> Option<&dyn Tree> {
        None
    }
}
