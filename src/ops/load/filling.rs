//! The ways to a filled database: what is there already stays until all of the dump is at the server.

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, bail};

use super::{Counted, Record, Scratch, WantedDatabase, no_room, temporary_name};
use crate::event::{Interrupted, Progress};
use crate::failpoint;
use crate::manifest::Component;
use crate::ops::stored::Backup;
use crate::source::{AlreadyThere, Context, Database, Load, Purpose};

/// How the names of databases begin that are there for as long as a restore needs them: privileges can be given
/// for them.
pub(super) const PREFIX: &str = "backup_restore_";
/// What else can be done where there is no room for two.
const NO_ROOM: &str =
    "where what is in the database now may be lost, drop it by hand and restore without --force";

/// One dump on its way into a database.
pub(super) struct Filling<'a> {
    pub(super) backup: &'a Backup<'a>,
    pub(super) component: &'a Component,
    pub(super) server: &'a dyn Database,
    pub(super) context: Context,
    /// The database of the dump.
    pub(super) from: String,
    pub(super) wanted: &'a WantedDatabase,
    pub(super) progress: &'a Arc<Progress>,
}

impl Filling<'_> {
    /// Makes a new database under its own name.
    pub(super) fn directly(&self, folder: &Scratch, mut record: Record) -> Result<u64> {
        let into = &self.wanted.into;
        record.database.clone_from(into);
        folder.record(&record)?;
        self.fill(into, Purpose::Use).map_err(|error| {
            if error.is::<AlreadyThere>() {
                return error;
            }
            error.context(match self.server.remove(into, &self.context) {
                Ok(true) => format!("loading {into}: what was loaded of it is removed again"),
                Ok(false) => format!("loading {into}"),
                Err(left) => format!("loading {into}: what was loaded of it is left there ({left:#})"),
            })
        })
    }

    /// Makes a database under a temporary name, and gives it its own when it is whole: in the same moment the one
    /// that is `there` loses it.
    pub(super) fn renamed(&self, there: bool, folder: &Scratch, mut record: Record) -> Result<u64> {
        let (server, into) = (self.server, &self.wanted.into);
        let name = temporary_name(PREFIX, into);
        let aside = there.then(|| temporary_name(PREFIX, &format!("old_{into}")));
        if there {
            self.may_begin()?;
        }
        record.database.clone_from(&name);
        record.aside.clone_from(&aside);
        folder.record(&record)?;
        let bytes = self
            .fill(&name, Purpose::Use)
            .and_then(|bytes| {
                server.rename(&name, into, aside.as_deref(), &self.context)?;
                Ok(bytes)
            })
            .map_err(|error| self.as_it_was(error, there, &name))?;
        if let Some(aside) = aside
            && let Err(e) = server.drop_database(&aside, &self.context)
        {
            tracing::warn!(
                "{into} is the database of the backup now; the one that was there could not be dropped, and is called \
                 {aside}: {e:#}"
            );
        }
        Ok(bytes)
    }

    /// Replaces a database at a server that cannot rename one: the dump is loaded under a temporary name, to see
    /// that all of it loads; then what is there is dropped, and the dump loaded again in its place.
    pub(super) fn proved(&self, folder: &Scratch, mut record: Record) -> Result<u64> {
        let (server, into) = (self.server, &self.wanted.into);
        self.may_begin()?;
        let name = temporary_name(PREFIX, into);
        record.database.clone_from(&name);
        folder.record(&record)?;
        self.fill(&name, Purpose::Proof).map_err(|error| self.as_it_was(error, true, &name))?;
        // From here on it is all there is of the database if this process dies.
        record.last = true;
        folder.record(&record).map_err(|error| self.as_it_was(error, true, &name))?;
        let before = server.tables(into, &self.context).map_err(|e| self.as_it_was(e, true, &name))?;
        if let Err(error) = server.drop_database(into, &self.context) {
            let after = server.tables(into, &self.context.undisturbed());
            if after.as_ref().is_ok_and(|after| *after == before) {
                return Err(self.as_it_was(error, true, &name));
            }
            return Err(error.context(format!(
                "the database {into} is dropped in part or as a whole; all of the backup stands in the database \
                 {name} (its events are disabled). Mend what is said here, restore once more with --force, and drop \
                 {name} when {into} is whole"
            )));
        }
        let bytes = self.fill(into, Purpose::Use).map_err(|error| {
            error.context(format!(
                "the database {into} that was there has been dropped, and loading the backup in its place did not \
                 come to its end: what was loaded is left there. All of the backup stands in the database {name} \
                 (its events are disabled). Mend what is said here, restore once more with --force, and drop {name} \
                 when {into} is whole"
            ))
        })?;
        if let Err(e) = server.remove(&name, &self.context) {
            tracing::warn!(
                "{into} is whole; the temporary database {name} is left behind, drop it by hand: {e:#}"
            );
        }
        Ok(bytes)
    }

    /// What would stop a replacement, looked at before anything is loaded.
    fn may_begin(&self) -> Result<()> {
        let into = &self.wanted.into;
        self.server
            .replaceable(into, &self.context)
            .and_then(|()| no_room(self.server, self.component.raw_bytes, &self.context, NO_ROOM))
            .with_context(|| format!("the database {into} is as it was"))
    }

    /// The error of what failed before anything was dropped, with what that means; the temporary database is
    /// removed.
    fn as_it_was(&self, error: Error, there: bool, name: &str) -> Error {
        let into = &self.wanted.into;
        let live = if there {
            format!("the database {into} is as it was")
        } else {
            format!("no database {into} was made")
        };
        error.context(match self.server.remove(name, &self.context) {
            Ok(true) => format!("{live}, and what was loaded beside it is removed again"),
            Ok(false) => live,
            Err(left) => {
                format!("{live}; what was loaded is left in the database {name} ({left:#}): drop it by hand")
            }
        })
    }

    /// Makes a database and loads all of the dump into it, which must be what was written; gives its bytes.
    fn fill(&self, into: &str, purpose: Purpose) -> Result<u64> {
        let Self { component, progress, .. } = self;
        let (mut decoder, totals) = self.backup.stream(component)?;
        let mut dump = Counted::new(&mut decoder, progress);
        let load = Load {
            component: &component.name,
            content: component.content,
            from: &self.from,
            into,
            no_owner: self.wanted.no_owner,
            purpose,
        };
        let loaded = self.server.load(&load, &mut dump, &self.context);
        let loaded = loaded.and_then(|()| failpoint::hit("load-filled"));
        if progress.is_cancelled() {
            // What a program says that was ended is no reason.
            return Err(Interrupted.into());
        }
        loaded?;
        // A program may be content before the end of what it is given.
        io::copy(&mut dump, &mut io::sink()).with_context(|| format!("decompressing {}", component.file))?;
        if dump.bytes() != component.raw_bytes || totals.sha256() != component.sha256 {
            bail!(
                "{} at target {} is not what was written: another target may have a good copy (--target)",
                component.file,
                self.backup.target.name()
            );
        }
        Ok(dump.bytes())
    }
}
