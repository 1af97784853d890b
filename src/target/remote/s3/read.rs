//! Reading an object: by position, or from an offset on as one stream.

use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes};
use reqwest::{Method, Response, StatusCode};

use super::client::{Call, header};
use super::error::Fault;
use super::{Inner, into_io};
use crate::archive::ReadAt;
use crate::target::remote::Object;

/// A stored object.
pub(super) struct S3Object {
    inner: Arc<Inner>,
    key: String,
    length: u64,
    /// What it was when it was opened: another one must not come in its place midway.
    etag: Option<String>,
}

impl S3Object {
    /// Looks for an object; none where there is none.
    pub(super) fn find(inner: Arc<Inner>, key: &str) -> Result<Option<Self>> {
        let call = Call::new(Method::HEAD, Some(key));
        let answer = match inner.wait(inner.client.exchange(&call)) {
            Ok(answer) => answer,
            Err(fault) if fault.is_missing() => return Ok(None),
            Err(fault) => return Err(inner.explained(fault, key)),
        };
        let length = header(&answer.headers, "content-length").and_then(|length| length.parse().ok());
        let length =
            length.with_context(|| format!("{}: the store gave no length", inner.client.address(key)))?;
        let etag = header(&answer.headers, "etag").map(str::to_owned);
        Ok(Some(Self { key: key.to_owned(), length, etag, inner }))
    }

    fn get(&self, first: u64, last: u64) -> Result<Response, Fault> {
        let mut call =
            Call::new(Method::GET, Some(&self.key)).header("range", format!("bytes={first}-{last}"));
        if let Some(etag) = &self.etag {
            call = call.header("if-match", etag);
        }
        let response = self.inner.wait(self.inner.client.send(&call))?;
        let begins = format!("bytes {first}-{last}/");
        let whole = first == 0 && last + 1 == self.length && response.status() == StatusCode::OK;
        let right =
            header(response.headers(), "content-range").is_some_and(|range| range.starts_with(&begins));
        match whole || right {
            true => Ok(response),
            false => Err(Fault::broken(format!(
                "the store gave something else than the bytes {first} to {last} of {}",
                self.length
            ))),
        }
    }

    fn failed(&self, fault: Fault) -> io::Error {
        into_io(self.inner.client.error(fault, "reading", &self.key))
    }
}

impl ReadAt for S3Object {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset + length as u64;
        if end > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut response = self.get(offset, end - 1).map_err(|fault| self.failed(fault))?;
        let mut bytes = Vec::with_capacity(length);
        let client = &self.inner.client;
        let read = self.inner.wait(async {
            while let Some(chunk) = client.chunk(&mut response).await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        });
        read.map_err(|fault| self.failed(fault))?;
        if bytes.len() != length {
            let got = bytes.len();
            return Err(self.failed(Fault::broken(format!("{length} bytes were asked for, {got} came"))));
        }
        Ok(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }
}

impl Object for S3Object {
    fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
        if offset >= self.length {
            return Ok(Box::new(io::empty()));
        }
        let response = self.get(offset, self.length - 1).map_err(|fault| self.failed(fault))?;
        Ok(Box::new(Streaming {
            inner: Arc::clone(&self.inner),
            key: self.key.clone(),
            response,
            chunk: Bytes::new(),
            left: self.length - offset,
        }))
    }
}

/// The rest of an object on its way.
struct Streaming {
    inner: Arc<Inner>,
    key: String,
    response: Response,
    chunk: Bytes,
    left: u64,
}

impl Read for Streaming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let failed = |inner: &Inner, key: &str, fault| into_io(inner.client.error(fault, "reading", key));
        while self.chunk.is_empty() && self.left > 0 {
            let next = self.inner.wait(self.inner.client.chunk(&mut self.response));
            match next.map_err(|fault| failed(&self.inner, &self.key, fault))? {
                Some(chunk) => self.chunk = chunk,
                None => {
                    let fault = Fault::broken(format!("it ended {} bytes early", self.left));
                    return Err(failed(&self.inner, &self.key, fault));
                }
            }
        }
        let length = self.chunk.len().min(out.len());
        self.chunk.copy_to_slice(&mut out[..length]);
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}
