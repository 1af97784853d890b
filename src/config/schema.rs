//! The JSON Schema of the configuration, and the marker types its text forms are described with.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::kinds;
use super::types::Config;
use crate::model::{ChannelName, ComponentName, HookName, JobName, TargetName};

/// Keyword of a text's form; its values are the names in [`kinds::KINDS`].
pub(super) const KIND: &str = "x-kind";
/// Keyword of a value that only the environment may set.
pub(super) const ENVIRONMENT_ONLY: &str = "x-environment-only";

fn text_schema(kind: &str) -> Schema {
    let mut schema = json_schema!({ "type": "string" });
    schema.insert(KIND.to_owned(), kind.into());
    if let Some(kind) = kinds::kind(kind) {
        schema.insert("examples".to_owned(), Value::from(vec![kind.example]));
    }
    schema
}

macro_rules! markers {
    ($($(#[$doc:meta])* $name:ident => $kind:literal,)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                text_schema($kind)
            }
        }
    )*};
}

markers! {
    /// Stands for a duration in the schema.
    DurationText => "duration",
    /// Stands for a share.
    PercentText => "percent",
    /// Stands for a time zone.
    ZoneName => "time-zone",
    /// Stands for a schedule.
    CronLine => "cron",
    /// Stands for an address to listen on.
    SocketText => "socket",
    /// Stands for a path.
    AbsolutePath => "path",
    /// Stands for the path of a file with a secret.
    SecretFile => "secret-file",
    /// Stands for the template of a backup's folder.
    TemplateText => "template",
    /// Stands for the address of a mail server.
    SmtpUrl => "smtp",
    /// Stands for a web address.
    HttpUrl => "http",
    /// Stands for the address of a page, which is no secret.
    PageUrl => "page",
    /// Stands for a mail address.
    MailAddress => "mail",
}

/// Stands for a size, which may be a text with a unit or a number of bytes.
pub(crate) struct SizeText;

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "SizeText".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = text_schema("size");
        schema.insert("type".to_owned(), Value::from(vec!["string", "integer"]));
        schema.insert("minimum".to_owned(), 0.into());
        schema
    }
}

/// Stands for an added niceness.
pub(crate) struct NiceLevel;

impl JsonSchema for NiceLevel {
    fn schema_name() -> Cow<'static, str> {
        "NiceLevel".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 19 })
    }
}

/// The schema of a secret that the environment may give and a file may not.
pub(crate) fn environment_only(_: &mut SchemaGenerator) -> Schema {
    let mut schema = json_schema!({ "type": "string" });
    schema.insert(ENVIRONMENT_ONLY.to_owned(), true.into());
    schema
}

macro_rules! names {
    ($($name:ident)*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = text_schema("name");
                schema.insert("pattern".to_owned(), "^[a-z0-9][a-z0-9_-]{0,63}$".into());
                schema
            }
        }
    )*};
}

names! { JobName TargetName ComponentName ChannelName HookName }

/// The schema as the shape is read from: no references, and with the keywords only this program knows.
pub(super) fn raw() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
}

/// The JSON Schema (draft 2020-12) of the configuration file, for editors.
pub fn schema() -> Value {
    let mut schema = raw();
    publish(&mut schema);
    if let Some(zone) = schema.pointer_mut("/properties/timezone").and_then(Value::as_object_mut) {
        // The default is the zone of whichever host printed the schema.
        zone.remove("default");
    }
    schema
}

/// Removes what only this program needs: its own keywords, values only the environment may set, and
/// `null`, which TOML does not have.
fn publish(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove(KIND);
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                properties.retain(|_, property| property.get(ENVIRONMENT_ONLY).is_none());
            }
            object.retain(|_, value| !value.is_null());
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            for key in ["anyOf", "oneOf"] {
                if let Some(Value::Array(branches)) = object.get_mut(key) {
                    branches.retain(|branch| branch.get("type") != Some(&Value::from("null")));
                }
            }
            object.values_mut().for_each(publish);
        }
        Value::Array(items) => items.iter_mut().for_each(publish),
        _ => {}
    }
}
