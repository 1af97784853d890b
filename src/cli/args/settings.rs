//! Who is told, and what is configured: `notify`, `config`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::model::ChannelName;

#[derive(Debug, Args)]
pub struct Notify {
    #[command(subcommand)]
    pub verb: NotifyVerb,
}

#[derive(Debug, Subcommand)]
pub enum NotifyVerb {
    /// Send a test message now
    Test {
        /// Only through this channel
        channel: Option<ChannelName>,
    },
    /// Try messages again at once: those that wait, were refused or given up
    Retry {
        /// Number of a message in `agent notify queue`, or `all`
        #[arg(value_name = "ID")]
        which: Which,
    },
    /// Take messages that wait out of the queue for good
    Drop {
        /// Number of a message in `agent notify queue`, or `all`
        #[arg(value_name = "ID")]
        which: Which,
    },
    /// Show messages that wait, failed or went out
    Queue {
        /// Only those that wait, were refused or given up
        #[arg(long)]
        open: bool,
        /// How many
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20)]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// One message, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one with this number.
    One(i64),
    /// All.
    All,
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Which::All),
            _ => text
                .parse()
                .map(Which::One)
                .map_err(|_| "a number of `agent notify queue`, or all".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Report everything that is wrong with the configuration
    Check,
    /// Write a commented example
    Init {
        /// Where to [default: the configuration file]; `-` prints it
        file: Option<PathBuf>,
    },
    /// Print the effective values, secrets left out
    Show,
    /// Print the JSON Schema, for editors
    Schema,
}
