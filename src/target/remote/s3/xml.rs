//! What a store answers, and what it is sent, in XML.

use anyhow::{Context as _, Result};
use roxmltree::{Document, Node};

/// What an answer that is no success says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorBody {
    pub(super) code: String,
    pub(super) message: String,
    /// The region the bucket is in, where requests were signed for another.
    pub(super) region: Option<String>,
    /// The store's clock, where it differs too much.
    pub(super) server_time: Option<String>,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Keys, with their lengths.
    pub(super) objects: Vec<(String, u64)>,
    /// What stands before the delimiter, with the delimiter.
    pub(super) prefixes: Vec<String>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

/// A version of an object, or an upload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) key: String,
    pub(super) id: String,
    /// Not a version, but a mark that the object is gone.
    pub(super) hides: bool,
}

/// One page of a list of versions or of uploads, and the two marks the next page begins at.
#[derive(Debug, Default)]
pub(super) struct IdPage {
    pub(super) found: Vec<Id>,
    pub(super) next: Option<(String, String)>,
}

/// A part of an upload, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) etag: String,
}

fn child<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    // By its local name: some stores leave the namespace out.
    node.children().find(|c| c.tag_name().name() == name).map(|c| c.text().unwrap_or_default())
}

fn parse(text: &str) -> Result<Document<'_>> {
    Document::parse(text).context("the store's answer is no XML")
}

/// Reads an error; none when the text is not one.
pub(super) fn error(text: &str) -> Option<ErrorBody> {
    let document = Document::parse(text).ok()?;
    let root = document.root_element();
    if root.tag_name().name() != "Error" {
        return None;
    }
    let owned = |name| child(root, name).filter(|text| !text.is_empty()).map(str::to_owned);
    Some(ErrorBody {
        code: owned("Code").unwrap_or_default(),
        message: owned("Message").unwrap_or_default(),
        region: owned("Region"),
        server_time: owned("ServerTime"),
    })
}

/// Reads a page of `ListObjectsV2`.
pub(super) fn page(text: &str) -> Result<Page> {
    let document = parse(text)?;
    let root = document.root_element();
    let encoded = child(root, "EncodingType") == Some("url");
    let plain = |text: &str| if encoded { decode(text) } else { text.to_owned() };
    let mut page = Page::default();
    for node in root.children() {
        match node.tag_name().name() {
            "Contents" => {
                let key = child(node, "Key").context("a listed object has no key")?;
                let size = child(node, "Size").and_then(|size| size.parse().ok());
                page.objects.push((plain(key), size.context("a listed object has no size")?));
            }
            "CommonPrefixes" => page.prefixes.extend(child(node, "Prefix").map(plain)),
            _ => {}
        }
    }
    if child(root, "IsTruncated") == Some("true") {
        let next = child(root, "NextContinuationToken").filter(|token| !token.is_empty());
        page.next = Some(next.context("a listing goes on, and does not say where")?.to_owned());
    }
    Ok(page)
}

/// Reads a page of `ListObjectVersions`, delete markers among them.
pub(super) fn versions(text: &str) -> Result<IdPage> {
    ids(text, &["Version", "DeleteMarker"], "VersionId", ["NextKeyMarker", "NextVersionIdMarker"])
}

/// Reads a page of `ListMultipartUploads`.
pub(super) fn uploads(text: &str) -> Result<IdPage> {
    ids(text, &["Upload"], "UploadId", ["NextKeyMarker", "NextUploadIdMarker"])
}

fn ids(text: &str, elements: &[&str], id: &str, marks: [&str; 2]) -> Result<IdPage> {
    let document = parse(text)?;
    let root = document.root_element();
    let encoded = child(root, "EncodingType") == Some("url");
    let plain = |text: &str| if encoded { decode(text) } else { text.to_owned() };
    let found = root
        .children()
        .filter(|node| elements.contains(&node.tag_name().name()))
        .filter_map(|node| {
            let hides = node.tag_name().name() == "DeleteMarker";
            Some(Id { key: plain(child(node, "Key")?), id: child(node, id)?.to_owned(), hides })
        })
        .collect();
    let next = (child(root, "IsTruncated") == Some("true"))
        .then(|| marks.map(|mark| child(root, mark).unwrap_or_default()))
        .map(|[key, id]| (plain(key), id.to_owned()));
    Ok(IdPage { found, next })
}

/// The id of an upload that was begun.
pub(super) fn upload_id(text: &str) -> Result<String> {
    let document = parse(text)?;
    let id = child(document.root_element(), "UploadId").filter(|id| !id.is_empty());
    Ok(id.context("the store gave no id for the upload")?.to_owned())
}

/// What ends an upload.
pub(super) fn complete(parts: &[Part]) -> String {
    let parts: String = parts
        .iter()
        .map(|part| {
            let etag = part.etag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", part.number)
        })
        .collect();
    format!(
        r#"<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</CompleteMultipartUpload>"#
    )
}

/// Undoes the encoding of keys in listings. `+` is a space there.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let pair = after.get(..2).and_then(|pair| hex::decode(pair).ok());
        match (first, pair) {
            (b'%', Some(pair)) => {
                bytes.extend(pair);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_objects_folders_and_where_the_next_begins() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><EncodingType>url</EncodingType>
<IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinuationToken>
<Contents><Key>web1/a%26+b.zst</Key><Size>12</Size><ETag>"x"</ETag></Contents>
<CommonPrefixes><Prefix>web1/2026/</Prefix></CommonPrefixes></ListBucketResult>"#;
        let page = page(text).unwrap();
        assert_eq!(page.objects, [("web1/a& b.zst".to_owned(), 12)]);
        assert_eq!(page.prefixes, ["web1/2026/"]);
        assert_eq!(page.next.as_deref(), Some("t+/="));
        assert!(super::page("<html>").is_err());
        let cut = text.replace("<NextContinuationToken>t+/=</NextContinuationToken>", "");
        assert!(super::page(&cut).is_err(), "half a listing must not be taken for a whole one");
    }

    #[test]
    fn an_error_is_told_from_other_answers() {
        let text = "<Error><Code>RequestTimeTooSkewed</Code><Message>too large</Message>\
            <ServerTime>2026-11-24T18:00:00Z</ServerTime></Error>";
        let found = error(text).unwrap();
        assert_eq!(found.code, "RequestTimeTooSkewed");
        assert_eq!(found.server_time.as_deref(), Some("2026-11-24T18:00:00Z"));
        assert_eq!(error("<html><body>Bad gateway</body></html>"), None);
        assert_eq!(error("not XML"), None);
        assert_eq!(error("<CompleteMultipartUploadResult/>"), None);
    }

    #[test]
    fn versions_and_delete_markers_are_listed_alike() {
        let text = "<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
            <NextVersionIdMarker>2</NextVersionIdMarker><DeleteMarker><Key>k</Key><VersionId>3</VersionId></DeleteMarker>\
            <Version><Key>k</Key><VersionId>2</VersionId></Version></ListVersionsResult>";
        let page = versions(text).unwrap();
        let ids: Vec<(&str, bool)> =
            page.found.iter().map(|found| (found.id.as_str(), found.hides)).collect();
        assert_eq!(ids, [("3", true), ("2", false)]);
        assert_eq!(page.next, Some(("k".to_owned(), "2".to_owned())));
    }
}
