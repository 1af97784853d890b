//! Sizes and durations of a job's latest runs as small bars.

use std::time::Duration;

use askama::Template;

use super::when::took;
use crate::model::{ByteSize, Outcome, plural};
use crate::state::RunBrief;

/// Bars a chart has room for; the newest stands at the right.
const BARS: usize = 30;
/// Units of a drawing: the distance of two bars, the height of the highest, and of one that is next to
/// nothing but still seen. The templates have the same in `viewBox`.
#[derive(Debug, Clone, Copy)]
struct Scale {
    step: usize,
    height: f64,
    least: f64,
}

const LARGE: Scale = Scale { step: 8, height: 40.0, least: 2.0 };
/// With numbers of few digits: there may be fifty of them on a page.
const SMALL: Scale = Scale { step: 3, height: 12.0, least: 1.0 };

/// A row of bars. One path for each colour, so that 30 runs take a few hundred bytes.
#[derive(Debug, Clone, PartialEq, Template)]
#[template(path = "chart.html")]
pub(super) struct Chart {
    /// What it shows: `Size`, `Duration`.
    label: &'static str,
    /// The newest value, in words.
    newest: String,
    /// The same for those who do not see it.
    description: String,
    /// Path data of good runs, of good runs beside which something failed, and of runs without a full
    /// backup: those are as high as the drawing, so that the colour is not all that tells them.
    good: String,
    degraded: String,
    incomplete: String,
    failed: String,
    /// Whether it stands in a line of a table: without words beside it.
    small: bool,
}

/// What a row of bars measures.
#[derive(Debug, Clone, Copy)]
struct Measure {
    label: &'static str,
    value: fn(&RunBrief) -> u64,
    words: fn(u64) -> String,
    /// Whether a run without a backup has a value.
    of_failed: bool,
}

const MEASURES: [Measure; 2] = [
    Measure {
        label: "Size",
        value: |run| run.stored_bytes,
        words: |bytes| ByteSize(bytes).to_string(),
        of_failed: false,
    },
    Measure {
        label: "Duration",
        value: |run| run.duration_ms,
        words: |ms| took(Duration::from_millis(ms)),
        of_failed: true,
    },
];

/// Size and duration of the latest runs, newest first as the state has them. Nothing without runs.
pub(super) fn charts(history: &[RunBrief]) -> Vec<Chart> {
    let runs = &history[..history.len().min(BARS)];
    if runs.is_empty() {
        return Vec::new();
    }
    MEASURES.iter().map(|measure| Chart::new(runs, measure, LARGE)).collect()
}

/// The sizes alone, for a line of a table.
pub(super) fn small(history: &[RunBrief]) -> Option<Chart> {
    let runs = &history[..history.len().min(BARS)];
    let [size, _] = &MEASURES;
    let chart = Chart { small: true, description: good_runs(runs), ..Chart::new(runs, size, SMALL) };
    (!runs.is_empty()).then_some(chart)
}

/// How many of the latest runs were good, in words.
pub(super) fn good_runs(history: &[RunBrief]) -> String {
    let runs = &history[..history.len().min(BARS)];
    let good = runs.iter().filter(|run| run.outcome.is_good()).count();
    match (good, runs.len()) {
        (_, 0) => String::new(),
        (1, 1) => "the only run was good".to_owned(),
        (good, all) if good == all => format!("all of the last {all} runs were good"),
        (good, all) => format!("{good} of the last {} were good", plural(all as u64, "run", "runs")),
    }
}

impl Chart {
    fn new(runs: &[RunBrief], measure: &Measure, scale: Scale) -> Self {
        let Scale { step, height: full, least: smallest } = scale;
        let counts = |run: &&RunBrief| measure.of_failed || stored(run.outcome);
        let values: Vec<u64> = runs.iter().filter(counts).map(measure.value).collect();
        let most = values.iter().copied().max().unwrap_or(0);
        let least = values.iter().copied().min().unwrap_or(0);
        let newest = values.first().map_or_else(|| "–".to_owned(), |value| (measure.words)(*value));
        let mut chart = Self {
            label: measure.label,
            description: format!(
                "{}, between {} and {}; the newest {newest}",
                good_runs(runs),
                (measure.words)(least),
                (measure.words)(most)
            ),
            newest,
            good: String::new(),
            degraded: String::new(),
            incomplete: String::new(),
            failed: String::new(),
            small: false,
        };
        for (place, run) in runs.iter().enumerate() {
            let x = (BARS - place) * step - step / 2;
            let height = match most {
                0 => smallest,
                most => ((measure.value)(run) as f64 / most as f64 * full).max(smallest),
            };
            let (path, height) = match run.outcome {
                Outcome::Success | Outcome::Warning if run.degraded => (&mut chart.degraded, height),
                Outcome::Success | Outcome::Warning => (&mut chart.good, height),
                Outcome::Partial | Outcome::Interrupted => (&mut chart.incomplete, full),
                Outcome::Failure => (&mut chart.failed, full),
            };
            path.push_str(&format!("M{x} {full}v-{height:.0}"));
        }
        chart
    }
}

fn stored(outcome: Outcome) -> bool {
    outcome.is_good() || outcome == Outcome::Partial
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outcome: Outcome, stored_bytes: u64, degraded: bool) -> RunBrief {
        let started: chrono::DateTime<chrono::Utc> = "2026-11-24T02:05:00Z".parse().unwrap();
        RunBrief {
            run_id: crate::model::RunId::generate(started),
            started,
            ended: started,
            outcome,
            degraded,
            duration_ms: 60_000,
            stored_bytes,
            warnings: 0,
        }
    }

    #[test]
    fn a_chart_has_a_bar_for_each_run_the_newest_at_the_right() {
        let runs = [
            run(Outcome::Success, 2_000, false),
            run(Outcome::Failure, 0, false),
            run(Outcome::Success, 4_000, true),
            run(Outcome::Partial, 1_000, false),
            run(Outcome::Success, 0, false),
        ];
        let [size, duration] = charts(&runs).try_into().unwrap();
        assert_eq!(size.good, "M236 40v-20M204 40v-2");
        assert_eq!(size.failed, "M228 40v-40");
        assert_eq!(size.degraded, "M220 40v-40");
        assert_eq!(size.incomplete, "M212 40v-40");
        assert_eq!(size.newest, "2.00 KB".replace("2.00 KB", &ByteSize(2_000).to_string()));
        assert_eq!(
            size.description,
            format!(
                "3 of the last 5 runs were good, between 0 B and {}; the newest {}",
                ByteSize(4_000),
                ByteSize(2_000)
            )
        );
        assert_eq!(duration.good, "M236 40v-40M204 40v-40");
        assert!(charts(&[]).is_empty());
    }

    #[test]
    fn thirty_runs_take_few_bytes() {
        let runs: Vec<RunBrief> = (0..90).map(|n| run(Outcome::Success, 1_000 + n, false)).collect();
        for chart in charts(&runs) {
            let html = chart.to_string();
            assert_eq!(html.matches('M').count(), 30 + html.matches("MiB").count());
            assert!(html.len() < 900, "{}", html.len());
        }
        assert!(small(&runs).unwrap().to_string().len() < 480);
        assert!(small(&[]).is_none());
    }

    #[test]
    fn a_job_whose_runs_all_failed_has_charts_too() {
        let [size, _] = charts(&[run(Outcome::Failure, 0, false)]).try_into().unwrap();
        assert_eq!((size.newest.as_str(), size.good.as_str()), ("–", ""));
    }
}
