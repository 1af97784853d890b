//! What stands below a key, and how it goes: with its earlier versions, and with uploads nobody finished.

use anyhow::{Result, bail};
use reqwest::Method;

use super::Inner;
use super::client::{Call, header};
use super::error::Fault;
use super::xml::{self, Id, IdPage, Page};
use crate::target::remote::Entry;

/// What stands directly below a folder.
pub(super) fn list(inner: &Inner, folder: &str) -> Result<Vec<Entry>> {
    let below = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let prefix = inner.client.full(&below);
    let mut entries = Vec::new();
    pages(inner, &below, true, |page| {
        let name = |full: &str| full.strip_prefix(&prefix).map(|rest| rest.trim_end_matches('/').to_owned());
        let folders = page.prefixes.iter().filter_map(|full| Some((name(full)?, None)));
        // An object named like the folder itself, which some programs make, is nothing in it.
        let objects = page.objects.iter().filter(|(full, _)| !full.ends_with('/'));
        let objects = objects.filter_map(|(full, length)| Some((name(full)?, Some(*length))));
        let found = folders.chain(objects).filter(|(name, _)| !name.is_empty());
        entries.extend(found.map(|(name, length)| Entry { name, length }));
    })?;
    Ok(entries)
}

/// Every key below the root that ends in `/name`.
pub(super) fn find(inner: &Inner, name: &str) -> Result<Vec<String>> {
    let end = format!("/{name}");
    let mut keys = Vec::new();
    pages(inner, "", false, |page| {
        let relative = page.objects.iter().filter_map(|(full, _)| inner.client.relative(full));
        keys.extend(relative.filter(|key| key.ends_with(&end)).map(str::to_owned));
    })?;
    Ok(keys)
}

fn pages(inner: &Inner, below: &str, folders: bool, mut take: impl FnMut(Page)) -> Result<()> {
    let client = &inner.client;
    let mut token: Option<String> = None;
    loop {
        let mut call = Call::new(Method::GET, None)
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("prefix", client.full(below));
        if folders {
            call = call.query("delimiter", "/");
        }
        if let Some(token) = &token {
            call = call.query("continuation-token", token);
        }
        let answer = inner.wait(client.exchange(&call)).map_err(|f| client.error(f, "listing", below))?;
        let mut page =
            xml::page(&answer.text).map_err(|e| e.context(format!("listing {}", client.address(below))))?;
        let next = page.next.take();
        take(page);
        match next {
            None => return Ok(()),
            Some(next) if Some(&next) == token.as_ref() => {
                bail!("listing {}: the store gives the same page again and again", client.address(below))
            }
            next => token = next,
        }
    }
}

/// Removes an object. Where the bucket keeps versions, these go, too, as far as that is allowed: otherwise they are
/// hidden, and the bucket's own rules remove them.
pub(super) fn delete(inner: &Inner, key: &str) -> Result<()> {
    let client = &inner.client;
    let versioned = match inner.wait(client.exchange(&Call::new(Method::DELETE, Some(key)))) {
        Ok(answer) => {
            let says = |name| {
                header(&answer.headers, name).is_some_and(|value| !matches!(value, "" | "null" | "false"))
            };
            says("x-amz-version-id") || says("x-amz-delete-marker")
        }
        Err(fault) if fault.is_missing() => false,
        Err(fault) => return Err(client.error(fault, "removing", key)),
    };
    if !versioned {
        return Ok(());
    }
    allowed(remove_versions(inner, key)).map_err(|fault| client.error(fault, "removing versions of", key))
}

fn remove_versions(inner: &Inner, key: &str) -> Result<(), Fault> {
    let full = inner.client.full(key);
    let mut found = ids(inner, key, "versions", ["key-marker", "version-id-marker"], xml::versions)?;
    // The list has every key that begins so.
    found.retain(|version| version.key == full);
    // What hides them goes last: a version that must stay is not to appear again.
    found.sort_by_key(|version| version.hides);
    for version in found {
        let call = Call::new(Method::DELETE, Some(key)).query("versionId", version.id);
        inner.wait(inner.client.exchange(&call))?;
    }
    Ok(())
}

/// Gives up uploads below a folder that nobody will finish.
pub(super) fn discard(inner: &Inner, folder: &str) -> Result<()> {
    allowed(give_up(inner, folder))
        .map_err(|fault| inner.client.error(fault, "giving up uploads below", folder))
}

fn give_up(inner: &Inner, folder: &str) -> Result<(), Fault> {
    let below = format!("{folder}/");
    for upload in ids(inner, &below, "uploads", ["key-marker", "upload-id-marker"], xml::uploads)? {
        let Some(key) = inner.client.relative(&upload.key).filter(|key| key.starts_with(&below)) else {
            continue;
        };
        let call = Call::new(Method::DELETE, Some(key)).query("uploadId", upload.id);
        inner.wait(inner.client.exchange(&call))?;
    }
    Ok(())
}

/// What others must do where these credentials may not, or the store cannot.
fn allowed(result: Result<(), Fault>) -> Result<(), Fault> {
    match result {
        Err(fault) if fault.is_forbidden() || fault.is_unknown() => {
            tracing::debug!("left to the bucket's own rules: {}", fault.code());
            Ok(())
        }
        Err(fault) if fault.status() == 404 => Ok(()),
        other => other,
    }
}

/// All of a list of versions or uploads.
fn ids(
    inner: &Inner,
    below: &str,
    what: &'static str,
    marks: [&'static str; 2],
    parse: fn(&str) -> Result<IdPage>,
) -> Result<Vec<Id>, Fault> {
    let mut all = Vec::new();
    let mut from: Option<(String, String)> = None;
    loop {
        let mut call = Call::new(Method::GET, None).query(what, "").query("prefix", inner.client.full(below));
        if let Some((key, id)) = &from {
            call = call.query(marks[0], key).query(marks[1], id);
        }
        let answer = inner.wait(inner.client.exchange(&call))?;
        let page = parse(&answer.text).map_err(|e| Fault::broken(format!("{e:#}")))?;
        all.extend(page.found);
        match page.next {
            next @ Some(_) if next != from => from = next,
            _ => return Ok(all),
        }
    }
}
