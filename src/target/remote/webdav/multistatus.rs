//! What a server answers to PROPFIND: a `multistatus` document, read for the few properties that are needed.

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;
use quick_xml::NsReader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};
use reqwest::Url;

/// What is asked for.
pub(super) const QUESTION: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r#"<propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/>"#,
    r#"<quota-available-bytes/><quota-used-bytes/></prop></propfind>"#
);

/// One resource of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resource {
    /// The parts of its path, decoded.
    pub(super) path: Vec<String>,
    /// A folder.
    pub(super) folder: bool,
    /// Its length, where the server says it.
    pub(super) length: Option<u64>,
    /// Bytes that may still be stored below it.
    pub(super) available: Option<u64>,
    /// Bytes stored.
    pub(super) used: Option<u64>,
}

/// The parts of an address's path, decoded. Empty ones are left out, so that a slash at the end, or two in a row,
/// change nothing.
pub(super) fn parts(url: &Url) -> Vec<String> {
    url.path()
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect()
}

/// Reads the answer to a question about `asked`; relative addresses in it are relative to that.
///
/// # Errors
/// It is no such document.
pub(super) fn parse(text: &str, asked: &Url) -> Result<Vec<Resource>> {
    let mut reader = NsReader::from_str(text);
    let mut resources = Vec::new();
    // The elements that are open, by their names in the namespace of WebDAV; others are an empty name.
    let mut open: Vec<String> = Vec::new();
    let mut content = String::new();
    let mut resource = Resource::default();
    let mut found = Resource::default();
    let mut href = None;
    let mut status = String::new();
    let mut is_multistatus = false;
    loop {
        let (namespace, event) = reader.read_resolved_event().context("it is no XML")?;
        let known = namespace == ResolveResult::Bound(Namespace("DAV:"));
        let name_of = |local: &str| if known { local.to_owned() } else { String::new() };
        match event {
            Event::Start(element) => {
                let name = name_of(element.local_name().into_inner());
                match name.as_str() {
                    "response" => (resource, href) = (Resource::default(), None),
                    "propstat" => (found, status) = (Resource::default(), String::new()),
                    "collection" if open.last().is_some_and(|above| above == "resourcetype") => {
                        found.folder = true;
                    }
                    "multistatus" if open.is_empty() => is_multistatus = true,
                    _ => {}
                }
                open.push(name);
                content.clear();
            }
            Event::Empty(element) => {
                let name = name_of(element.local_name().into_inner());
                if name == "collection" && open.last().is_some_and(|above| above == "resourcetype") {
                    found.folder = true;
                }
            }
            Event::Text(text) => content.push_str(&text.xml10_content()),
            Event::CData(text) => content.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => match reference.resolve_char_ref()? {
                Some(character) => content.push(character),
                None => content.push_str(
                    resolve_xml_entity(&reference)
                        .with_context(|| format!("it has an unknown entity &{};", &*reference))?,
                ),
            },
            Event::End(_) => {
                let name = open.pop().unwrap_or_default();
                let above = open.last().map_or("", String::as_str);
                let text = content.trim();
                match (above, name.as_str()) {
                    ("response", "href") if href.is_none() => {
                        let url = asked.join(text).with_context(|| format!("{text:?} is no address"))?;
                        href = Some(parts(&url));
                    }
                    ("propstat", "status") => status = text.to_owned(),
                    ("prop", "getcontentlength") => found.length = text.parse().ok(),
                    // A number below zero says that it is unlimited or unknown.
                    ("prop", "quota-available-bytes") => found.available = text.parse().ok(),
                    ("prop", "quota-used-bytes") => found.used = text.parse().ok(),
                    // Properties it does not have come with a status of their own.
                    ("response", "propstat") if status.is_empty() || is_success(&status) => {
                        resource.folder |= found.folder;
                        resource.length = resource.length.or(found.length);
                        resource.available = resource.available.or(found.available);
                        resource.used = resource.used.or(found.used);
                    }
                    ("multistatus", "response") => {
                        let Some(path) = href.take() else { bail!("a resource in it has no address") };
                        resources.push(Resource { path, ..resource.clone() });
                    }
                    _ => {}
                }
                content.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    // A document that was cut off ends without an error.
    if !is_multistatus || !open.is_empty() {
        bail!("it is no complete multistatus document");
    }
    Ok(resources)
}

/// `HTTP/1.1 200 OK`.
fn is_success(status: &str) -> bool {
    status.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2'))
}

/// The first failure in a multistatus answer to something else than PROPFIND: its address and status.
pub(super) fn first_failure(text: &str) -> Option<String> {
    let mut reader = NsReader::from_str(text);
    let (mut content, mut href) = (String::new(), String::new());
    loop {
        match reader.read_resolved_event().ok()?.1 {
            Event::Start(_) => content.clear(),
            Event::Text(text) => content.push_str(&text.xml10_content()),
            Event::End(element) => match element.local_name().into_inner() {
                "href" => href = content.trim().to_owned(),
                "status" if !is_success(&content) => return Some(format!("{href}: {}", content.trim())),
                _ => {}
            },
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Url {
        Url::parse("https://cloud.example.org/dav/my%20files/").unwrap()
    }

    fn path(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|&part| part.to_owned()).collect()
    }

    #[test]
    fn answers_are_read_with_any_prefix_of_the_namespace_and_any_form_of_address() {
        let text = r#"<?xml version="1.0"?>
<d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns">
 <d:response>
  <d:href>/dav/my%20files/</d:href>
  <d:propstat>
   <d:prop>
    <d:resourcetype><d:collection/></d:resourcetype>
    <d:quota-available-bytes>1000</d:quota-available-bytes>
    <d:quota-used-bytes>24</d:quota-used-bytes>
    <oc:getcontentlength>7</oc:getcontentlength>
   </d:prop>
   <d:status>HTTP/1.1 200 OK</d:status>
  </d:propstat>
  <d:propstat><d:prop><d:getcontentlength/></d:prop><d:status>HTTP/1.1 404 Not Found</d:status></d:propstat>
 </d:response>
 <d:response>
  <d:href>https://other.example.org/dav/my%20files/a&amp;b%2Bc%C3%A9</d:href>
  <d:propstat>
   <d:prop><d:resourcetype/><d:getcontentlength>12</d:getcontentlength></d:prop>
   <d:status>HTTP/1.1 200 OK</d:status>
  </d:propstat>
 </d:response>
 <d:response>
  <d:href>sub/</d:href>
  <d:propstat>
   <d:prop><d:resourcetype><d:collection></d:collection></d:resourcetype>
   <d:quota-available-bytes>-3</d:quota-available-bytes></d:prop>
   <d:status>HTTP/1.1 200 OK</d:status>
  </d:propstat>
 </d:response>
</d:multistatus>"#;
        let found = parse(text, &asked()).unwrap();
        assert_eq!(found[0].path, path(&["dav", "my files"]));
        assert!(found[0].folder);
        assert_eq!((found[0].available, found[0].used, found[0].length), (Some(1000), Some(24), None));
        assert_eq!(found[1].path, path(&["dav", "my files", "a&b+cé"]));
        assert_eq!((found[1].folder, found[1].length), (false, Some(12)));
        assert_eq!(found[2].path, path(&["dav", "my files", "sub"]));
        assert!(found[2].folder && found[2].available.is_none());

        let default = text.replace("d:multistatus xmlns:d=", "multistatus xmlns=").replace("d:", "");
        assert_eq!(parse(&default, &asked()).unwrap(), found);
    }

    #[test]
    fn what_is_no_whole_answer_is_refused() {
        for text in [
            "",
            "<html><body>Log in</body></html>",
            r#"<multistatus xmlns="DAV:"><response><href>/a</href>"#,
            r#"<multistatus xmlns="DAV:"><response></response></multistatus>"#,
            r#"<multistatus xmlns="urn:other"></multistatus>"#,
            r#"<multistatus xmlns="DAV:"><response><href>/a&bomb;</href></response></multistatus>"#,
            r#"<multistatus xmlns="DAV:"><response></multistatus>"#,
        ] {
            assert!(parse(text, &asked()).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn the_first_failure_of_a_removal_is_told() {
        let text = r#"<D:multistatus xmlns:D="DAV:"><D:response><D:href>/a/b</D:href>
            <D:status>HTTP/1.1 423 Locked</D:status></D:response></D:multistatus>"#;
        assert_eq!(first_failure(text).unwrap(), "/a/b: HTTP/1.1 423 Locked");
    }
}
