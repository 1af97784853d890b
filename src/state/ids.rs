//! Which run was meant: ids near to what was typed.

use super::{State, StateError};
use crate::model::RunId;

use super::sql::get_word;

impl State {
    /// The `n` run ids nearest to `text` by edit distance, nearest first, the newer first among equals.
    /// Text of the length of the random part is compared with that part alone.
    pub fn nearest_ids(&self, text: &str, n: usize) -> Result<Vec<RunId>, StateError> {
        let ids: Vec<RunId> = self.read("look for run ids", |tx| {
            tx.prepare("SELECT run_id FROM runs ORDER BY seq DESC")?
                .query_map([], |row| get_word(row, "run_id"))?
                .collect()
        })?;
        // What a person types is short; a pasted page is cut, not compared in full.
        let text: Vec<char> = text.chars().take(64).collect();
        let mut scored: Vec<(usize, RunId)> = ids
            .into_iter()
            .map(|id| {
                let whole = distance(&text, id.as_str());
                let tail = id.as_str().rsplit('-').next().map_or(whole, |tail| distance(&text, tail));
                (whole.min(tail), id)
            })
            .collect();
        // Stable, so that the order of the query decides among equals.
        scored.sort_by_key(|(score, _)| *score);
        Ok(scored.into_iter().take(n).map(|(_, id)| id).collect())
    }
}

/// Levenshtein's distance.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        let d = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!((d("", "abc"), d("abc", "abc"), d("kitten", "sitting"), d("abc", "")), (3, 0, 3, 3));
    }
}
