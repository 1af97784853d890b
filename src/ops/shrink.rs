//! A source that lost most of its content is an unmounted disk or a wrong path more often than it is right.

use anyhow::{Result, bail};

use super::capture::Plan;
use crate::config::OnShrink;
use crate::event::{Event, Level, Observer};
use crate::manifest::Component;
use crate::model::{ByteSize, ComponentName};
use crate::source::Part;
use crate::state::Baseline;

/// Holds a component against what it usually is.
pub fn check(
    component: &Component,
    baseline: Option<&Baseline>,
    plan: &Plan<'_>,
    observer: &dyn Observer,
) -> Result<()> {
    let Some(baseline) = baseline else { return Ok(()) };
    for (what, now, usual) in [
        ("bytes", component.source_bytes, baseline.source_bytes),
        ("entries", component.entries, baseline.entries),
    ] {
        let least = usual as f64 * (1.0 - plan.limits.max_shrink);
        if (now as f64) >= least {
            continue;
        }
        let amount = |n: u64| if what == "bytes" { ByteSize(n).to_string() } else { format!("{n} {what}") };
        let text = format!(
            "it shrank to {}; the median of the last good runs is {}, and max_shrink allows {:.0} %",
            amount(now),
            amount(usual),
            plan.limits.max_shrink * 100.0
        );
        return tell(&component.name, &text, plan, observer);
    }
    Ok(())
}

/// Names the components that this source made in the last good runs and will not make in this one, such as
/// the dump of a database that was dropped, renamed, or is no longer matched.
pub fn check_missing(
    source: &ComponentName,
    parts: &[Part],
    plan: &Plan<'_>,
    observer: &dyn Observer,
) -> Result<()> {
    let made =
        plan.baselines.iter().filter(|(name, usual)| name.source() == source.as_str() && usual.runs > 0);
    for (name, usual) in made {
        if parts.iter().any(|part| part.name == *name) {
            continue;
        }
        let text = format!(
            "it was in the last good backups, with {}, and is not there any more: was it dropped or renamed, or is it no longer chosen?",
            ByteSize(usual.source_bytes)
        );
        tell(name, &text, plan, observer)?;
    }
    Ok(())
}

fn tell(component: &ComponentName, text: &str, plan: &Plan<'_>, observer: &dyn Observer) -> Result<()> {
    let text = format!("{} If that is right: `{}`", sentence(text), plan.accept);
    match plan.limits.on_shrink {
        OnShrink::Fail => bail!("{text}"),
        OnShrink::Warn => {
            observer.event(&Event::Note(Level::Warning, format!("{component}: {text}")));
        }
    }
    Ok(())
}

/// With a full stop, unless it is a question.
fn sentence(text: &str) -> String {
    if text.ends_with('?') { text.to_owned() } else { format!("{text}.") }
}
