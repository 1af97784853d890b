//! Copies that a person keeps: what the state says, and what the targets were told.

use rusqlite::params;

use super::super::sql::json;
use super::super::{State, StateError};
use super::{Copy, CopyStatus};
use crate::manifest::Pin;
use crate::model::{RunId, TargetName};

/// What became of a wish to pin or unpin a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinChange {
    /// It is as wished.
    Made,
    /// It was so already.
    None,
    /// Retention has removed it, or is about to: it cannot be kept any more.
    TooLate,
}

impl State {
    /// Keeps a copy from retention, or lets it go again. The target is still to be told: see
    /// [`State::unstored_pins`].
    pub fn set_pin(
        &self,
        run_id: &RunId,
        target: &TargetName,
        pin: Option<&Pin>,
    ) -> Result<PinChange, StateError> {
        let doing = if pin.is_some() { "pin the copy" } else { "unpin the copy" };
        let mut change = PinChange::None;
        self.change_copy(doing, run_id, target, |tx, copy| {
            change = match pin {
                Some(_) if copy.status == CopyStatus::Expired => PinChange::TooLate,
                _ if copy.pinned == pin.is_some() => PinChange::None,
                _ => PinChange::Made,
            };
            // A pin that was there is written anew: its reason may be another.
            if change == PinChange::TooLate || (change == PinChange::None && pin.is_none()) {
                return Ok(());
            }
            let pin = pin.map(json).transpose()?;
            // As if the target said the opposite, whatever it was told: being told twice does no harm.
            tx.execute(
                "UPDATE copies SET pinned = ?3, pin = ?4, pin_stored = NOT ?3 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), pin.is_some(), pin],
            )?;
            Ok(())
        })?;
        Ok(change)
    }

    /// Records a pin that stands at the target. One that is to be taken away there is not brought back. False when
    /// nothing changed.
    pub fn pin_found(&self, run_id: &RunId, target: &TargetName, pin: &Pin) -> Result<bool, StateError> {
        let text = self.write("record a pin that was found", |tx| {
            tx.execute(
                "UPDATE copies SET pinned = 1, pin = ?3, pin_stored = 1
                 WHERE run_id = ?1 AND target = ?2 AND pin_stored = 0 AND status <> 'expired'",
                params![run_id.as_str(), target.as_str(), json(pin)?],
            )
        })?;
        Ok(text > 0)
    }

    /// Records that the target was told what the state says of a copy, unless that changed meanwhile.
    pub fn pin_stored(&self, run_id: &RunId, target: &TargetName, pinned: bool) -> Result<(), StateError> {
        self.write(&format!("record that {target} knows of the pin of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE copies SET pin_stored = ?3 WHERE run_id = ?1 AND target = ?2 AND pinned = ?3",
                params![run_id.as_str(), target.as_str(), pinned],
            )?;
            Ok(())
        })
    }

    /// Records that the target has lost a pin.
    pub fn pin_missing(&self, run_id: &RunId, target: &TargetName) -> Result<(), StateError> {
        self.write(&format!("record that {target} has no pin of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE copies SET pin_stored = 0 WHERE run_id = ?1 AND target = ?2 AND pinned",
                params![run_id.as_str(), target.as_str()],
            )?;
            Ok(())
        })
    }

    /// Copies whose target was not told yet that they are pinned, or are no more. Archives of other programs are
    /// not among them: nothing is written beside those.
    pub fn unstored_pins(&self) -> Result<Vec<Copy>, StateError> {
        self.read("read the pins that targets do not know", |tx| {
            tx.prepare_cached(
                "SELECT * FROM copies WHERE pinned <> pin_stored AND NOT imported AND location IS NOT NULL
                     AND status IN ('complete', 'verified', 'corrupt')
                 ORDER BY target, started DESC, run_id DESC",
            )?
            .query_map([], Copy::from_row)?
            .collect()
        })
    }
}
