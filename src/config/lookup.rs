//! Questions everybody asks a configuration.

use chrono_tz::Tz;

use super::types::*;
use crate::model::{ChannelName, JobName, TargetName};
use crate::schedule::Schedule;

impl Config {
    /// The zone a job's schedule and folder names are in.
    pub fn job_timezone(&self, job: &JobConfig) -> Tz {
        job.timezone.unwrap_or(self.timezone)
    }

    /// What a job's backups are encrypted to: its own section, else the one for all; none when they are not.
    pub fn encryption_of<'a>(&'a self, job: &'a JobConfig) -> Option<&'a EncryptionConfig> {
        job.encryption.as_ref().or(self.encryption.as_ref()).filter(|encryption| encryption.enabled)
    }

    /// The target a job's runs write to; absent only in a configuration that was not checked.
    pub fn primary_target<'a>(&'a self, job: &JobConfig) -> Option<(&'a TargetName, &'a TargetConfig)> {
        self.target.get_key_value(job.targets.first()?)
    }

    /// The targets that receive copies of a job's backups, in the order of the configuration.
    pub fn copy_targets<'a>(&'a self, job: &JobConfig) -> Vec<(&'a TargetName, &'a TargetConfig)> {
        job.targets.iter().skip(1).filter_map(|name| self.target.get_key_value(name)).collect()
    }

    /// True when more than one job stores backups at `target`.
    pub fn shares_target(&self, target: &TargetName) -> bool {
        self.job.values().filter(|job| job.targets.contains(target)).count() > 1
    }

    /// The channels that tell about a job: those it names, else all.
    /// Of these, only the ones that are for this job.
    pub fn channels_for<'a>(&'a self, name: &JobName) -> Vec<(&'a ChannelName, &'a NotifyConfig)> {
        // A job that the configuration no longer has is told by all.
        let wanted = self.job.get(name).and_then(|job| job.notify.as_ref());
        let all = self.notify.iter();
        all.filter(|(channel, _)| wanted.is_none_or(|names| names.contains(channel)))
            .filter(|(_, channel)| channel.tells(name))
            .collect()
    }

    /// The name of this host: the configured one, else the kernel's.
    pub fn host_name(&self) -> String {
        match &self.host {
            Some(host) => host.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
}

impl JobConfig {
    /// When the job is due; absent without a schedule.
    pub fn schedule(&self) -> Option<Schedule> {
        // A configuration that was checked has no line that does not parse.
        self.schedule.as_deref().and_then(|line| Schedule::parse(line).ok())
    }
}
