//! A folder of a WebDAV server as a store.
//!
//! Plain HTTP with a few methods more. Uploads are streamed, and their length is asked for afterwards: servers that
//! answer 201 and keep nothing exist. A folder is renamed by `MOVE` with `Overwrite: F`, which is what makes a backup
//! visible at once. Requests carry the login each time; redirects are not followed.

mod multistatus;
mod object;
mod server;

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use self::object::{DavObject, DavUpload};
use self::server::Server;
use super::http::Failure;
use super::http_body::Outgoing;
use super::{Entry, Mode, Object, Store, Tree, Upload};
use crate::config::WebdavPlace;
use crate::failpoint;
use crate::target::{Published, Space, is_permanent};

/// Begins the name of an empty folder that is about to be removed.
const ASIDE: &str = ".empty-";

/// A folder of a WebDAV server.
pub(super) struct WebdavStore {
    server: Arc<Server>,
}

/// Makes a store of what the configuration says; no connection yet.
///
/// # Errors
/// The address is none; the password or the certificates cannot be read.
pub(super) fn open(place: &WebdavPlace) -> Result<WebdavStore> {
    Ok(WebdavStore { server: Arc::new(Server::open(place)?) })
}

impl Store for WebdavStore {
    fn kind(&self) -> &'static str {
        "webdav"
    }

    fn address(&self, key: &str) -> String {
        self.server.address(key)
    }

    fn probe(&self) -> Result<Option<Space>> {
        let look = || match self.server.look("", true, "0")?.and_then(|found| found.into_iter().next()) {
            None => Err(self.server.no_root()),
            Some(root) if !root.folder => Err(Failure::permanent("that is no folder")),
            Some(root) => Ok(root
                .available
                .map(|free| Space { total: root.used.unwrap_or(0).saturating_add(free), free })),
        };
        look().map_err(|failure| failure.at(&self.server.address("")))
    }

    fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>> {
        let address = self.server.address(key);
        let begin = || {
            let mut request = self.server.request("PUT", self.server.url(key, false))?;
            request = request.header("Content-Type", "application/octet-stream");
            if mode == Mode::New {
                request = request.header("If-None-Match", "*");
            }
            Ok(request)
        };
        let request = begin().map_err(|failure: Failure| failure.at(&address))?;
        let body = Outgoing::new(Arc::clone(self.server.http()), request, address);
        Ok(Box::new(DavUpload::new(Arc::clone(&self.server), key.to_owned(), body)))
    }

    fn open(&self, key: &str) -> Result<Option<Box<dyn Object>>> {
        let found = self.server.stat(key).map_err(|failure| failure.at(&self.server.address(key)))?;
        let Some(found) = found else { return Ok(None) };
        if found.folder {
            bail!("{} is a folder", self.server.address(key));
        }
        let length = found.length.with_context(|| {
            format!("{}: the server does not say how long it is", self.server.address(key))
        })?;
        Ok(Some(Box::new(DavObject::new(Arc::clone(&self.server), key.to_owned(), length))))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.server.list(folder).map_err(|failure| failure.at(&self.server.address(folder)))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.server.remove(key, false).map(drop).map_err(|failure| failure.at(&self.server.address(key)))
    }

    fn tree(&self) -> Option<&dyn Tree> {
        Some(self)
    }
}

impl Tree for WebdavStore {
    fn make_folder(&self, path: &str) -> Result<()> {
        self.server.make_folder(path).map_err(|failure| failure.at(&self.server.address(path)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<Published> {
        self.server.rename(from, to).map_err(|failure| failure.at(&self.server.address(from)))
    }

    fn remove_all(&self, path: &str) -> Result<bool> {
        self.server.remove(path, true).map_err(|failure| failure.at(&self.server.address(path)))
    }

    /// The protocol removes folders with all that is in them. So it is taken out of sight first, looked into where
    /// nobody puts anything any more, and put back when something came in the meantime.
    fn remove_empty(&self, path: &str) -> Result<bool> {
        let server = &self.server;
        let remove = || {
            if !server.list(path)?.is_empty() {
                return Ok(false);
            }
            let aside = format!("{ASIDE}{:016x}", rand::random::<u64>());
            match server.rename(path, &aside) {
                Ok(Published::Done) => {}
                Ok(Published::Taken) => return Ok(false),
                Err(failure) => {
                    return if server.is_folder(path)? { Err(failure) } else { Ok(true) };
                }
            }
            failpoint::hit("webdav-aside").map_err(|e| Failure::passing(e.to_string()))?;
            if server.list(&aside)?.is_empty() {
                server.remove(&aside, true)?;
                return Ok(true);
            }
            match server.rename(&aside, path)? {
                Published::Done => Ok(false),
                Published::Taken => Err(Failure::permanent(format!(
                    "a backup came into it while it was removed, and is in {} now: move it back",
                    server.address(&aside)
                ))),
            }
        };
        remove().map_err(|failure: Failure| {
            let error = failure.at(&server.address(path));
            if !is_permanent(&error) {
                tracing::debug!("an empty folder stays: {error:#}");
            }
            error
        })
    }

    /// Empty folders that were taken out of sight, and that nobody came back for. One that another process is just
    /// about to remove may be removed by either.
    fn tidy(&self) -> Result<bool> {
        let server = &self.server;
        let remove = || {
            let mut found = false;
            for entry in server.list("")?.into_iter().filter(is_aside) {
                if server.list(&entry.name)?.is_empty() {
                    found |= server.remove(&entry.name, true)?;
                } else {
                    tracing::warn!(
                        "{} holds what came into an empty folder while it was removed: move it back",
                        server.address(&entry.name)
                    );
                }
            }
            Ok(found)
        };
        remove().map_err(|failure: Failure| failure.at(&server.address("")))
    }
}

/// Whether [`WebdavStore::remove_empty`] gave a folder its name.
fn is_aside(entry: &Entry) -> bool {
    let digits = entry.name.strip_prefix(ASIDE).filter(|_| entry.length.is_none());
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(url: &str) -> WebdavStore {
        let _ = rustls::crypto::ring::default_provider().install_default();
        open(&toml::from_str(&format!("url = \"{url}\"")).unwrap()).unwrap()
    }

    #[test]
    fn keys_become_addresses_whatever_is_in_them() {
        for url in ["https://cloud.example.org/dav/my files", "https://cloud.example.org/dav/my%20files/"] {
            let store = store(url);
            let server = &store.server;
            assert_eq!(server.url("", false).as_str(), "https://cloud.example.org/dav/my%20files/");
            let odd = server.url("a b/ü?#%2f.tar", false);
            assert_eq!(odd.as_str(), "https://cloud.example.org/dav/my%20files/a%20b/%C3%BC%3F%23%252f.tar");
            assert_eq!(multistatus::parts(&odd)[2..], ["a b", "ü?#%2f.tar"]);
            assert!(server.url("a", true).as_str().ends_with("/a/"));
            assert_eq!(store.address("a/b"), format!("{}/a/b", url.trim_end_matches('/')));
        }
        assert_eq!(store("http://127.0.0.1:1").server.url("x", false).as_str(), "http://127.0.0.1:1/x");
    }
}
