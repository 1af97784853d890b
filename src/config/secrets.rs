//! Secrets reach the agent through files of their own or through the environment, never through the
//! configuration file: that one is copied, mailed and put under version control.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer};

use crate::model::Secret;

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

/// A secret from where the configuration says it is: `inline` (from the environment) when given, else the
/// first line of `file`. Neither given is no error but no secret.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or has an empty first line. The text of the secret is in no error.
pub fn resolve_secret(inline: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>> {
    if let Some(secret) = inline {
        return Ok(Some(secret.clone()));
    }
    let Some(file) = file else { return Ok(None) };
    let bytes =
        std::fs::read(file).with_context(|| format!("cannot read the secret in {}", file.display()))?;
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("the secret in {} is not UTF-8 text", file.display())
    };
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Some(Secret::new(line))),
        _ => bail!("{} is empty: its first line should be the secret", file.display()),
    }
}
