//! A component's size against what it usually is.

use std::collections::BTreeMap;

use crate::model::{ByteSize, ComponentName, Outcome};
use crate::state::{Baseline, ComponentSummary, JobState, Run};

/// A component that holds much less than it usually does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrink {
    /// The component.
    pub component: ComponentName,
    /// What there is now against what there usually is: `12.0 MiB, usually 1.40 GiB`.
    pub text: String,
}

/// The components that shrank by more than `max_shrink` (0.5: to less than half) in source bytes or in
/// entries. `expected` are the components that must be there; one of them that has a baseline and is
/// missing has shrunk to nothing.
///
/// A baseline without a run, as after an acknowledgement, compares with nothing.
pub fn shrunk<'a>(
    components: &[ComponentSummary],
    baselines: &BTreeMap<ComponentName, Baseline>,
    expected: impl IntoIterator<Item = &'a ComponentName>,
    max_shrink: f64,
) -> Vec<Shrink> {
    let mut found = Vec::new();
    let too_small = |now: u64, usual: u64| usual > 0 && (now as f64) < usual as f64 * (1.0 - max_shrink);
    for component in components {
        let Some(usual) = baselines.get(&component.name).filter(|usual| usual.runs > 0) else { continue };
        let text = if too_small(component.source_bytes, usual.source_bytes) {
            format!("{}, usually {}", ByteSize(component.source_bytes), ByteSize(usual.source_bytes))
        } else if too_small(component.entries, usual.entries) {
            format!("{} entries, usually {}", component.entries, usual.entries)
        } else {
            continue;
        };
        found.push(Shrink { component: component.name.clone(), text });
    }
    for name in expected {
        let usual = baselines.get(name).filter(|usual| usual.runs > 0);
        if let Some(usual) = usual.filter(|_| components.iter().all(|c| c.name != *name)) {
            let text = format!("missing, usually {}", ByteSize(usual.source_bytes));
            found.push(Shrink { component: name.clone(), text });
        }
    }
    found
}

/// The run whose sizes are the present ones: the last that stored something, which a failure did not.
pub fn measured_run(state: &JobState) -> Option<&Run> {
    let stored = |run: &&Run| {
        !run.components.is_empty()
            && run.outcome.is_some_and(|outcome| outcome.is_good() || outcome == Outcome::Partial)
    };
    state.last_run.as_ref().filter(stored).or(state.last_success.as_ref())
}
