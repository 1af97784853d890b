//! The components a source makes in one run, and which databases it chooses.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use globset::{GlobBuilder, GlobMatcher};
use sha2::Digest as _;

use crate::manifest::{Content, Kind};
use crate::model::ComponentName;

/// Longest part of a component's name, as a name may be.
const LONGEST: usize = 64;
/// Digits of the digest that tell two databases apart whose names look alike.
const DIGITS: usize = 8;
/// Names of parts that hold no database.
const RESERVED: &[&str] = &[USERS, GLOBALS];
/// The part with a MySQL server's accounts and grants.
pub(super) const USERS: &str = "users-and-grants";
/// The part with what the databases of a PostgreSQL server share.
pub(super) const GLOBALS: &str = "globals";
/// How many names an error lists.
const SHOWN: usize = 20;

/// One component that a source will make in this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The component's name: the source's, or the source's and a database's with a dot between them.
    pub name: ComponentName,
    /// The component's file name before the extension of the compression is added: `database.shop.sql`.
    pub file_name: String,
    /// Whether [`super::Source::open`] yields a tree or a stream.
    pub kind: Kind,
    /// What it holds.
    pub content: Content,
    /// The databases in it, by their own names, where they are known.
    pub databases: Vec<String>,
}

impl Part {
    /// The only component of a source, with the source's own name.
    pub fn whole(source: &ComponentName, extension: &str, kind: Kind, content: Content) -> Self {
        let file_name = format!("{source}.{extension}");
        Self { name: source.clone(), file_name, kind, content, databases: Vec::new() }
    }

    /// The component with one database.
    pub fn database(
        source: &ComponentName,
        database: &str,
        extension: &str,
        content: Content,
    ) -> anyhow::Result<Self> {
        let mut part = Self::beside(source, &slug(database), extension, content)?;
        part.databases.push(database.to_owned());
        Ok(part)
    }

    /// A further component of a source, which holds no database.
    pub(super) fn beside(
        source: &ComponentName,
        part: &str,
        extension: &str,
        content: Content,
    ) -> anyhow::Result<Self> {
        let name = ComponentName::new(format!("{source}.{part}"))?;
        let file_name = format!("{name}.{extension}");
        Ok(Self { name, file_name, kind: Kind::Stream, content, databases: Vec::new() })
    }
}

/// The name of a database as a part of a component's name. One that has other characters than a name may
/// have, or is too long, gets digits of its digest, so that two databases never share a component.
fn slug(database: &str) -> String {
    let plain: String = database
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_') => c,
            _ => '-',
        })
        .collect();
    let begins_well = plain.starts_with(|c: char| c.is_ascii_alphanumeric());
    if plain == database && begins_well && plain.len() <= LONGEST && !RESERVED.contains(&database) {
        return plain;
    }
    let digest = hex::encode(sha2::Sha256::digest(database.as_bytes()));
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).trim_end_matches('-');
    let plain = if plain.is_empty() { "db" } else { plain };
    let kept = plain.len().min(LONGEST - DIGITS - 1);
    format!("{}-{}", &plain[..kept], &digest[..DIGITS])
}

/// Which databases a source takes.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    wanted: Vec<String>,
    excluded: Vec<String>,
    allow_empty: bool,
}

/// What a choice says about a server's databases.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// In the order of their names.
    pub(super) databases: Vec<String>,
    /// Sentences for a person.
    pub(super) warnings: Vec<String>,
}

impl Choice {
    /// `wanted` and `excluded` hold names and patterns; nothing wanted means everything. An error where one
    /// of them cannot be either.
    pub(super) fn new(wanted: &[String], excluded: &[String], allow_empty: bool) -> anyhow::Result<Self> {
        for (list, names) in [("databases", wanted), ("exclude_databases", excluded)] {
            for name in names {
                ensure!(
                    !name.is_empty() && !name.starts_with('-') && !name.contains(['\0', '\n']),
                    "{list}: {name:?} cannot be the name of a database"
                );
                matcher(name, false)?;
            }
        }
        Ok(Self { wanted: wanted.to_vec(), excluded: excluded.to_vec(), allow_empty })
    }

    /// True when every database is wanted, without a condition.
    pub(super) fn is_everything(&self) -> bool {
        self.wanted.is_empty() && self.excluded.is_empty()
    }

    /// True when the server must be asked for its databases to know which are meant.
    pub(super) fn is_open(&self) -> bool {
        self.wanted.is_empty()
            || self.wanted.iter().chain(&self.excluded).any(|name| is_pattern(name))
            || !self.excluded.is_empty()
    }

    /// The names as they were given, for when the server cannot be asked and [`Choice::is_open`] is false.
    pub(super) fn names(&self) -> &[String] {
        &self.wanted
    }

    /// Chooses among `present`. What `is_system` says is a system's own is taken only where its very name
    /// is given. `place` and `user` are for the error about a name that is not there; a pattern that matches
    /// nothing is one too, unless that is allowed.
    pub(super) fn among(
        &self,
        present: &[String],
        folds_case: bool,
        is_system: impl Fn(&str) -> bool,
        place: &str,
        user: &str,
    ) -> anyhow::Result<Chosen> {
        let mut chosen = Chosen::default();
        let there = || {
            let names: Vec<&str> =
                present.iter().map(String::as_str).filter(|name| !is_system(name)).take(SHOWN).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let mut taken = BTreeMap::new();
        for wanted in &self.wanted {
            let matcher = matcher(wanted, folds_case)?;
            let pattern = is_pattern(wanted);
            let before = taken.len();
            let found = present
                .iter()
                .filter(|name| matcher.is_match(name.as_str()) && (!pattern || !is_system(name)));
            let count = found.map(|name| taken.insert(name.clone(), ())).count();
            if count > 0 || taken.len() > before {
                continue;
            }
            if !pattern {
                bail!(
                    "there is no database {wanted} at {place}, or {user} may not see it; there are: {}",
                    there()
                );
            }
            if !self.allow_empty {
                bail!(
                    "no database at {place} that {user} may see matches {wanted:?}; there are: {} (`allow_empty = true` if that is right)",
                    there()
                );
            }
            chosen.warnings.push(format!("no database at {place} matches {wanted:?}"));
        }
        if self.wanted.is_empty() {
            taken.extend(present.iter().filter(|name| !is_system(name)).map(|name| (name.clone(), ())));
        }
        for excluded in &self.excluded {
            let matcher = matcher(excluded, folds_case)?;
            taken.retain(|name, ()| !matcher.is_match(name.as_str()));
        }
        if taken.is_empty() && !self.allow_empty {
            bail!(
                "not one database is left to dump at {place}; there are: {} (`allow_empty = true` if that is right)",
                there()
            );
        }
        chosen.databases = taken.into_keys().collect();
        Ok(chosen)
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

fn matcher(pattern: &str, folds_case: bool) -> anyhow::Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).case_insensitive(folds_case).literal_separator(false).build();
    Ok(glob.with_context(|| format!("{pattern:?} is no pattern such as \"shop_*\""))?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn choose(wanted: &[&str], excluded: &[&str], present: &[&str]) -> Result<Vec<String>, String> {
        Choice::new(&texts(wanted), &texts(excluded), false)
            .and_then(|choice| choice.among(&texts(present), false, |name| name == "mysql", "here", "user x"))
            .map(|chosen| chosen.databases)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn databases_are_chosen_by_name_and_pattern_and_left_out_the_same_way() {
        let present = ["shop_a", "shop_b", "wiki", "mysql", "Shop_c"];
        for (wanted, excluded, expected) in [
            (&[][..], &[][..], &["Shop_c", "shop_a", "shop_b", "wiki"][..]),
            (&["shop_*"], &[], &["shop_a", "shop_b"]),
            (&["*"], &["shop_?"], &["Shop_c", "wiki"]),
            (&["wiki", "shop_{a,x}"], &[], &["shop_a", "wiki"]),
            (&[], &["*_*"], &["wiki"]),
            // A system's own only by its very name.
            (&["mysql"], &[], &["mysql"]),
            (&["m*", "wiki"], &[], &[]),
        ] {
            let chosen = choose(wanted, excluded, &present);
            match expected {
                [] => assert!(chosen.unwrap_err().contains("matches \"m*\""), "{wanted:?}"),
                _ => assert_eq!(chosen.unwrap(), expected, "{wanted:?} {excluded:?}"),
            }
        }
        let folded = Choice::new(&texts(&["SHOP_*"]), &[], false).unwrap();
        let chosen = folded.among(&texts(&present), true, |_| false, "here", "x").unwrap();
        assert_eq!(chosen.databases, ["Shop_c", "shop_a", "shop_b"]);
    }

    #[test]
    fn nothing_to_dump_is_refused_unless_it_is_allowed() {
        assert!(choose(&["x"], &[], &["a"]).unwrap_err().contains("there is no database x at here"));
        assert!(choose(&["x*"], &[], &["a"]).unwrap_err().contains("there are: a"));
        assert!(choose(&[], &["*"], &["a"]).unwrap_err().contains("not one database is left"));
        assert!(choose(&[], &[], &["mysql"]).unwrap_err().contains("there are: none"));
        let choice = Choice::new(&texts(&["x*"]), &[], true).unwrap();
        let chosen = choice.among(&texts(&["a"]), false, |_| false, "here", "x").unwrap();
        assert!(chosen.databases.is_empty() && chosen.warnings.len() == 1, "{chosen:?}");
        assert!(Choice::new(&texts(&["a{"]), &[], true).is_err());
        assert!(Choice::new(&[], &texts(&["--all"]), true).is_err());
    }

    #[test]
    fn each_database_has_a_component_of_its_own_whatever_its_name() {
        let source = ComponentName::new("database").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for name in
            ["shop", "Shop", "SHOP", "sh.op", "sh-op", "shop ", "ü", "..", "", USERS, GLOBALS, "-x", "a/b"]
                .into_iter()
                .map(str::to_owned)
                .chain([1, 64, 65, 200].map(|n| "x".repeat(n)))
        {
            let part = Part::database(&source, &name, "sql", Content::Mysql).unwrap();
            assert!(seen.insert(part.name.clone()), "{name:?}: {}", part.name);
            assert!(!part.file_name.contains('/') && part.file_name.len() < 200, "{part:?}");
            assert_eq!(part.databases, [name]);
        }
        let name = |database| Part::database(&source, database, "sql", Content::Mysql).unwrap().name;
        assert_eq!(name("shop_2").as_str(), "database.shop_2");
        assert!(name("Shop.Prod").as_str().starts_with("database.shop-prod-"));
        assert_eq!(name("Shop.Prod").source(), "database");
    }
}
