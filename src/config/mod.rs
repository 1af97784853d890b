//! The configuration: its types, how it is read, checked and shown.
//!
//! Three layers make one configuration, the later ones winning key by key: the file
//! (`/etc/backup-agent/config.toml`), the files of `conf.d` beside it in the order of their names, and
//! `BACKUP_AGENT__…` variables of the environment. Reading takes two passes. First each file is parsed
//! with its positions and held against the shape of [`Config`] (taken from its JSON Schema, so that there
//! is no second list of keys): everything wrong is collected with file, line and column. Then the crate
//! `config` merges the layers and fills in [`Config`]; rules between keys are checked on the result, and
//! still point at the line that set the key.

mod collide;
mod defaults;
pub(crate) mod duration;
mod embedded;
mod environment;
mod files;
mod keep;
mod kinds;
pub(crate) mod limits;
mod load;
mod lookup;
pub(crate) mod percent;
mod positions;
mod presets;
mod problem;
pub(crate) mod schema;
pub(crate) mod secrets;
mod shape;
mod show;
pub(crate) mod timezone;
mod types;
mod types_drill;
mod types_encryption;
mod types_hook;
mod types_notify;
mod types_source;
mod types_target;
mod validate;
mod validate_drill;
mod validate_encryption;
mod validate_hook;
mod validate_notify;
mod validate_source;
mod validate_target;
mod walk;

#[cfg(test)]
mod tests;

pub use defaults::DEFAULT_FILE;
pub use embedded::{adhoc, embedded_default};
pub use files::{Concerns, check_channel_files, check_files};
pub use limits::{HealthConfig, LIMITS, LimitInfo, LimitScope, Limits};
pub use load::{LoadOptions, Loaded, load, load_text};
pub use problem::{ConfigErrors, Location, Problem};
pub use schema::schema;
pub use secrets::resolve_secret;
pub use show::{example, show};
pub use timezone::host_timezone;
pub use types::*;
pub use validate_target::check_host_key;
