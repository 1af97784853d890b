//! Objects of a WebDAV server: written as one streamed PUT, read by GET with ranges.

use std::io::{self, Read, Write};
use std::sync::Arc;

use anyhow::{Result, bail};
use reqwest::{Response, StatusCode};

use super::server::{Server, refused};
use crate::archive::ReadAt;
use crate::target::remote::http::Failure;
use crate::target::remote::http_body::{Incoming, Outgoing};
use crate::target::remote::patient::patiently;
use crate::target::remote::{AlreadyThere, Object, Upload};

/// An object on its way.
pub(super) struct DavUpload {
    server: Arc<Server>,
    key: String,
    body: Outgoing,
    written: u64,
}

impl DavUpload {
    pub(super) fn new(server: Arc<Server>, key: String, body: Outgoing) -> Self {
        Self { server, key, body, written: 0 }
    }
}

impl Write for DavUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.body.write(bytes)?;
        self.written += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.body.flush()
    }
}

impl Upload for DavUpload {
    fn expect(&mut self, length: u64) {
        self.body.expect(length);
    }

    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        let Self { server, key, body, written } = *self;
        let address = body.address().to_owned();
        if written != length {
            // Dropped unfinished, it is no whole request for the server.
            bail!("{address}: {written} bytes were written, {length} were to be");
        }
        let answer = body.finish().map_err(|failure| failure.at(&address))?;
        match answer.status().as_u16() {
            200..=299 => {}
            412 => return Err(AlreadyThere(address).into()),
            404 | 409 => {
                let reason =
                    format!("the server answered {}; is the folder above it there?", answer.status());
                return Err(Failure::passing(reason).at(&address));
            }
            _ => return Err(refused(&answer).at(&address)),
        }
        drop(answer);
        confirm(&server, &key, length, &address)
    }
}

/// Has the server say how long it is by now: some answer well and keep less than they got.
fn confirm(server: &Server, key: &str, length: u64, address: &str) -> Result<()> {
    let stored = patiently(|| server.stat(key).map_err(|failure| failure.at(address)))?;
    let failure = match stored.map(|stored| stored.length) {
        Some(Some(stored)) if stored == length => return Ok(()),
        Some(Some(stored)) => Failure::passing(format!("the server took {length} bytes, and has {stored}")),
        Some(None) => Failure::permanent("the server does not say how long it is"),
        None => Failure::passing("the server took it, and does not have it"),
    };
    Err(failure.at(address))
}

/// A stored object. What is stored never changes, so its length is asked for once.
pub(super) struct DavObject {
    server: Arc<Server>,
    key: String,
    length: u64,
}

impl DavObject {
    pub(super) fn new(server: Arc<Server>, key: String, length: u64) -> Self {
        Self { server, key, length }
    }

    /// The bytes from `offset` to before `end`.
    fn range(&self, offset: u64, end: u64) -> Result<Incoming, Failure> {
        let whole = offset == 0 && end == self.length;
        let range = format!("bytes={offset}-{}", end - 1);
        let headers = [("Range", range.as_str())];
        let headers = if whole { &headers[..0] } else { &headers[..] };
        let response = self.server.ask(
            "GET",
            self.server.url(&self.key, false),
            self.server.http().silence(),
            headers,
        )?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(&response, offset) => 0,
            StatusCode::PARTIAL_CONTENT => {
                return Err(Failure::passing(format!(
                    "the server gave another range than {offset} to {end}"
                )));
            }
            // It does not know ranges, and gives everything.
            StatusCode::OK => offset,
            StatusCode::NOT_FOUND => return Err(Failure::passing("it is not there any more")),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Failure::passing(format!("it is shorter than the {} bytes it had", self.length)));
            }
            _ => return Err(refused(&response)),
        };
        let address = self.server.address(&self.key);
        let mut body = Incoming::new(Arc::clone(self.server.http()), response, end - offset, address);
        body.skip(skip)?;
        Ok(body)
    }

    fn address(&self) -> String {
        self.server.address(&self.key)
    }
}

/// Whether the answer says that it begins there; an answer that does not say is believed.
fn begins_at(response: &Response, offset: u64) -> bool {
    let Some(range) = response.headers().get("content-range").and_then(|value| value.to_str().ok()) else {
        return true;
    };
    let first = range.trim().strip_prefix("bytes").and_then(|rest| rest.trim().split('-').next());
    first.is_some_and(|first| first.trim().parse() == Ok(offset))
}

impl ReadAt for DavObject {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(length as u64);
        if end > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; length];
        self.range(offset, end)
            .map_err(|failure| failure.into_io(&self.address()))?
            .read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }
}

impl Object for DavObject {
    fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
        if offset >= self.length {
            return Ok(Box::new(io::empty()));
        }
        match self.range(offset, self.length) {
            Ok(body) => Ok(Box::new(body)),
            Err(failure) => Err(failure.at(&self.address())),
        }
    }
}
