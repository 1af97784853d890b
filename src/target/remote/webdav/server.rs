//! What is asked of a WebDAV server, and what its answers mean.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::multistatus::{self, Resource};
use crate::config::{self, WebdavPlace};
use crate::failpoint;
use crate::model::Secret;
use crate::target::remote::Entry;
use crate::target::remote::http::{Failure, Http, HttpSettings, SLOW_ANSWER, location};
use crate::target::{Permanent, Published};

/// No answer about a folder is longer; it would be one of some hundred thousand entries.
const LONGEST_ANSWER: usize = 64 << 20;
/// How often a rename is tried, or looked after when its answer got lost.
const ATTEMPTS: u32 = 4;
/// The first pause before that; it doubles.
const PAUSE: Duration = Duration::from_millis(400);

/// The server, as uploads and objects share it.
pub(super) struct Server {
    http: Arc<Http>,
    /// Address of the root, with a slash at its end.
    root: Url,
    /// The same as the configuration has it.
    shown: String,
    login: Option<(String, Secret)>,
}

impl Server {
    /// No connection yet.
    ///
    /// # Errors
    /// The address is none; the password or the certificates cannot be read.
    pub(super) fn open(place: &WebdavPlace) -> Result<Self> {
        let shown = place.url.trim_end_matches('/').to_owned();
        let mut root =
            Url::parse(&place.url).map_err(|e| Permanent(format!("{shown} is no address: {e}")))?;
        if let Ok(mut parts) = root.path_segments_mut() {
            parts.pop_if_empty().push("");
        }
        let settings =
            HttpSettings { ca_file: place.http.ca_file.clone(), silence: place.http.timeout, threads: 1 };
        let http = Http::new(&settings)?;
        let password = config::resolve_secret(place.password.as_ref(), place.password_file.as_deref())?;
        let login = place.user.clone().zip(password);
        Ok(Self { http: Arc::new(http), root, shown, login })
    }

    pub(super) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    /// The address of an object, or of a folder, which ends with a slash.
    pub(super) fn url(&self, key: &str, folder: bool) -> Url {
        let mut url = self.root.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(key.split('/').filter(|part| !part.is_empty()));
            if folder || key.is_empty() {
                parts.push("");
            }
        }
        url
    }

    /// How it is called in what people read.
    pub(super) fn address(&self, key: &str) -> String {
        match key {
            "" => self.shown.clone(),
            key => format!("{}/{key}", self.shown),
        }
    }

    pub(super) fn request(&self, method: &str, url: Url) -> Result<RequestBuilder, Failure> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|e| Failure::permanent(e.to_string()))?;
        let request = self.http.client().request(method, url);
        Ok(match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password.expose())),
            None => request,
        })
    }

    /// Sends a request without a body, and gives the answer's head.
    pub(super) fn ask(
        &self,
        method: &str,
        url: Url,
        limit: Duration,
        headers: &[(&'static str, &str)],
    ) -> Result<Response, Failure> {
        let mut request = self.request(method, url)?;
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.http.send(request, limit)
    }

    /// How long an answer may take that comes after work.
    fn slow(&self) -> Duration {
        self.http.silence() * SLOW_ANSWER
    }

    fn text(&self, mut response: Response) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        loop {
            let next = async { response.chunk().await.map_err(|e| Failure::unreached(&e)) };
            match self.http.wait(self.http.silence(), next)? {
                None => break,
                Some(chunk) if bytes.len() + chunk.len() > LONGEST_ANSWER => {
                    return Err(Failure::permanent(format!(
                        "the answer about it is longer than {} MiB",
                        LONGEST_ANSWER >> 20
                    )));
                }
                Some(chunk) => bytes.extend_from_slice(&chunk),
            }
        }
        String::from_utf8(bytes).map_err(|_| Failure::passing("the answer about it is no UTF-8"))
    }

    /// What the server says of a resource, and with `depth` 1 of what is directly in it; none when there is none.
    pub(super) fn look(
        &self,
        key: &str,
        folder: bool,
        depth: &str,
    ) -> Result<Option<Vec<Resource>>, Failure> {
        let url = self.url(key, folder);
        let request = self
            .request("PROPFIND", url.clone())?
            .header("Depth", depth)
            .header("Content-Type", "application/xml; charset=utf-8")
            .body(multistatus::QUESTION);
        let response = self.http.send(request, self.http.silence())?;
        match response.status() {
            StatusCode::MULTI_STATUS => {}
            StatusCode::NOT_FOUND => return Ok(None),
            // A folder, says Apache, has a slash at its end.
            status if status.is_redirection() && !folder && adds_slash(&response, &url) => {
                return self.look(key, true, depth);
            }
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::OK => {
                return Err(Failure::permanent(format!(
                    "the server answered {} to PROPFIND, so no WebDAV is served there: check the address",
                    response.status()
                )));
            }
            status => return Err(Failure::refused(status, location(&response).as_deref())),
        }
        let text = self.text(response)?;
        let found = multistatus::parse(&text, &url)
            .map_err(|e| Failure::passing(format!("the answer to PROPFIND cannot be read: {e:#}")))?;
        Ok(Some(found))
    }

    /// What stands under a key; none when there is nothing.
    pub(super) fn stat(&self, key: &str) -> Result<Option<Resource>, Failure> {
        Ok(self.look(key, key.is_empty(), "0")?.and_then(|found| found.into_iter().next()))
    }

    pub(super) fn is_folder(&self, path: &str) -> Result<bool, Failure> {
        Ok(self.look(path, true, "0")?.is_some_and(|found| found.first().is_some_and(|first| first.folder)))
    }

    pub(super) fn make_folder(&self, path: &str) -> Result<(), Failure> {
        let Some(refusal) = self.try_make_folder(path)? else { return Ok(()) };
        if let StatusCode::NOT_FOUND | StatusCode::CONFLICT = refusal.status() {
            match path.rsplit_once('/') {
                Some((above, _)) => self.make_folder(above)?,
                None if !self.is_folder("")? => return Err(self.no_root()),
                None => {}
            }
        }
        // Also where nothing was missing: who was quicker may have taken the folder away again since, as empty.
        match self.try_make_folder(path)? {
            None => Ok(()),
            Some(refusal)
                if refusal.status() == StatusCode::METHOD_NOT_ALLOWED && self.stat(path)?.is_some() =>
            {
                Err(Failure::permanent("something that is no folder stands there"))
            }
            Some(refusal) => Err(refused(&refusal)),
        }
    }

    /// What the server answered when no folder stands there afterwards.
    fn try_make_folder(&self, path: &str) -> Result<Option<Response>, Failure> {
        let made = self.ask("MKCOL", self.url(path, true), self.http.silence(), &[])?;
        match made.status().as_u16() {
            200..=299 => Ok(None),
            // It may be there already. Where somebody else makes it in the same moment, Apache answers 403: its
            // mkdir(2) fails after it found nothing there.
            403..=405 | 409 => Ok(if self.is_folder(path)? { None } else { Some(made) }),
            _ => Err(refused(&made)),
        }
    }

    pub(super) fn no_root(&self) -> Failure {
        Failure::permanent(format!(
            "there is no folder {}; make it on the server, or correct the address",
            self.shown
        ))
    }

    fn move_folder(&self, from: &str, to: &str) -> Result<Published, Failure> {
        let destination = self.url(to, true);
        let headers = [("Destination", destination.as_str()), ("Overwrite", "F"), ("Depth", "infinity")];
        let moved = self.ask("MOVE", self.url(from, true), self.slow(), &headers)?;
        match moved.status().as_u16() {
            207 => {
                let text = self.text(moved)?;
                let first = multistatus::first_failure(&text).unwrap_or_default();
                Err(Failure::passing(format!("the server moved only a part of it ({first})")))
            }
            200..=299 => Ok(Published::Done),
            412 => Ok(Published::Taken),
            502 => Err(Failure::passing(format!(
                "the server answered {} to a MOVE to {destination}; if it stands behind a proxy, it may not know \
                 that it is reached under this address",
                moved.status()
            ))),
            _ => Err(refused(&moved)),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<Published, Failure> {
        let mut asked = false;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let failure = match self.try_rename(from, to, &mut asked) {
                Ok(done) => return done,
                Err(failure) if attempt >= most_attempts(&failure) => return Err(failure),
                Err(failure) => failure,
            };
            tracing::debug!("trying again to rename {from}: {}", failure.reason);
            std::thread::sleep(failpoint::pause(pause.mul_f64(rand::random_range(0.7..1.3))));
            pause *= 2;
        }
        unreachable!("the loop ends by itself")
    }

    /// The outer error is tried again. `asked` says that an earlier attempt may have been done, its answer lost.
    fn try_rename(
        &self,
        from: &str,
        to: &str,
        asked: &mut bool,
    ) -> Result<Result<Published, Failure>, Failure> {
        // Not every server minds `Overwrite: F`.
        if self.stat(to)?.is_some() {
            let done = *asked && !self.is_folder(from)?;
            return Ok(Ok(if done { Published::Done } else { Published::Taken }));
        }
        if let Some((above, _)) = to.rsplit_once('/').filter(|_| *asked) {
            // It may have been removed as empty in this moment.
            self.make_folder(above)?;
        }
        *asked = true;
        match self.move_folder(from, to) {
            Err(failure) if !failure.permanent && !self.is_folder(from)? && self.stat(to)?.is_none() => {
                Ok(Err(failure)) // there is nothing to rename
            }
            Err(failure) => Err(failure),
            done => Ok(done),
        }
    }

    /// Removes an object, or a folder with all that is in it; true when there was one.
    pub(super) fn remove(&self, key: &str, folder: bool) -> Result<bool, Failure> {
        let removed = self.ask("DELETE", self.url(key, folder), self.slow(), &[])?;
        match removed.status().as_u16() {
            404 | 410 => Ok(false),
            207 => {
                let text = self.text(removed)?;
                match multistatus::first_failure(&text) {
                    Some(first) => {
                        Err(Failure::passing(format!("the server removed only a part of it ({first})")))
                    }
                    None => Ok(true),
                }
            }
            200..=299 => Ok(true),
            _ => Err(refused(&removed)),
        }
    }

    pub(super) fn list(&self, folder: &str) -> Result<Vec<Entry>, Failure> {
        let Some(found) = self.look(folder, true, "1")? else {
            return match folder {
                "" => Err(self.no_root()),
                _ => Ok(Vec::new()),
            };
        };
        Ok(entries(found, &multistatus::parts(&self.url(folder, true))))
    }
}

/// A refusal is tried again, too: servers written in Go answer 403 when the folder above was removed as empty in this
/// moment.
fn most_attempts(failure: &Failure) -> u32 {
    if failure.permanent { ATTEMPTS - 1 } else { ATTEMPTS }
}

/// Whether an answer leads to the same path with a slash at its end.
fn adds_slash(response: &Response, asked: &Url) -> bool {
    let to = location(response).and_then(|to| Url::parse(&to).ok());
    to.is_some_and(|to| to.path().strip_suffix('/') == Some(asked.path()))
}

pub(super) fn refused(response: &Response) -> Failure {
    Failure::refused(response.status(), location(response).as_deref())
}

/// What is directly in a folder, out of what was told of it and of that.
fn entries(found: Vec<Resource>, asked: &[String]) -> Vec<Entry> {
    // A server behind a proxy may know the folder under another path: the shortest one is the folder itself.
    let own = match found.iter().any(|resource| resource.path == asked) {
        true => asked.to_vec(),
        false => match found.iter().map(|resource| &resource.path).min_by_key(|path| path.len()) {
            Some(path) => path.clone(),
            None => return Vec::new(),
        },
    };
    found
        .into_iter()
        .filter_map(|resource| {
            let name = resource.path.strip_prefix(own.as_slice())?;
            let [name] = name else { return None };
            // No key can have such a part.
            if name.contains('/') || matches!(name.as_str(), "." | "..") {
                return None;
            }
            let length = if resource.folder { None } else { Some(resource.length.unwrap_or(0)) };
            Some(Entry { name: name.clone(), length })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_directly_in_a_folder_also_behind_a_proxy_that_changes_paths() {
        let told = |prefix: &[&str]| -> Vec<Resource> {
            let at = |rest: &[&str], folder: bool| Resource {
                path: prefix.iter().chain(rest).map(|&part| part.to_owned()).collect(),
                folder,
                length: (!folder).then_some(5),
                ..Resource::default()
            };
            vec![
                at(&["f"], true),
                at(&["f", "sub"], true),
                at(&["f", "a.txt"], false),
                at(&["f", "sub", "deep"], false),
                at(&["f", "x/y"], false),
                at(&["f", ".."], true),
            ]
        };
        let expected = [
            Entry { name: "sub".to_owned(), length: None },
            Entry { name: "a.txt".to_owned(), length: Some(5) },
        ];
        let asked = ["dav".to_owned(), "f".to_owned()];
        assert_eq!(entries(told(&["dav"]), &asked), expected);
        assert_eq!(entries(told(&["inner", "way"]), &asked), expected);
        assert!(entries(Vec::new(), &asked).is_empty());
    }
}
