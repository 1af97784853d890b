//! What several sources ask of the form of their settings.

use std::path::PathBuf;

use anyhow::{bail, ensure};

/// Refuses relative paths. Each comes with its key.
pub(super) fn absolute(paths: &[(&str, &Option<PathBuf>)]) -> anyhow::Result<()> {
    for (key, path) in paths {
        if let Some(path) = path {
            ensure!(path.is_absolute(), "{key} must be an absolute path, not {}", path.display());
        }
    }
    Ok(())
}

/// Refuses further arguments of a dump program that are no options (it would take one for a database), or begin
/// like one of `refused`, which come with the reason.
pub(super) fn extra_args(args: &[String], refused: &[(&str, &str)]) -> anyhow::Result<()> {
    for arg in args {
        ensure!(
            arg.starts_with('-') && arg.as_str() != "--",
            "extra_args: {arg:?} is not an option; write options with a value as --option=value"
        );
        if let Some((refused, why)) = refused.iter().find(|(refused, _)| arg.starts_with(refused)) {
            // Not the whole argument: it may hold a password.
            bail!("extra_args: {refused} is not possible here: {why}");
        }
    }
    Ok(())
}
