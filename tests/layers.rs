//! A file may import only what stands on a lower layer, or its own folder.
//!
//! [`LAYERS`] is the rule; the rest of the file finds what each source file under `src/` imports: `use`
//! declarations and paths that begin with `crate::` or `backup_agent::`, or climb to the root by `super::`.
//! Comments, texts and what is compiled for tests only are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules of one layer do not import one another.
const LAYERS: &[&[&str]] = &[
    &["model", "clock", "sys", "failpoint"],
    &["fsutil", "process", "mounts", "secret_file"],
    &["manifest", "event", "lock", "schedule", "crypt"],
    &["archive", "config", "state", "log", "triggers"],
    &["source", "target", "retention", "notify", "health"],
    &["ops", "metrics"],
    &["run", "web", "doctor"],
    &["daemon"],
    &["cli"],
    &["main"],
];

/// The file that only declares the modules.
const ROOT: &str = "lib.rs";

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// One import: the module named, and the line it stands in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    line: usize,
    module: String,
}

#[test]
fn every_file_imports_only_lower_layers_or_its_own_folder() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut problems = Vec::new();
    let mut test_files = BTreeSet::new();
    let mut sources = BTreeMap::new();
    for path in rust_files(&src) {
        let text = fs::read_to_string(&path).unwrap();
        let (code, test_modules) = without_test_items(&without_comments_and_texts(&text));
        test_files.extend(test_modules.iter().flat_map(|name| module_files(&path, name)));
        sources.insert(path, code);
    }
    for (path, code) in &sources {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
        let is_for_tests = test_files.iter().any(|file| path.starts_with(file));
        if name != ROOT && !is_for_tests {
            problems.extend(check_file(name, code));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_table_names_each_module_once_and_no_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named: Vec<&str> = LAYERS.iter().flat_map(|modules| modules.iter().copied()).collect();
    let found: BTreeSet<String> = rust_files(&src)
        .iter()
        .map(|path| module_of(path.strip_prefix(&src).unwrap().to_str().unwrap()))
        .collect();
    for module in &named {
        assert_eq!(named.iter().filter(|other| other == &module).count(), 1, "{module} stands on two layers");
        assert!(found.contains(*module), "{module} is in the table of tests/layers.rs but not in src/");
    }
}

/// What is wrong with one file, given by its path below `src/`; one line each.
fn check_file(name: &str, code: &str) -> Vec<String> {
    let own = module_of(name);
    let Some(own_layer) = layer_of(&own) else {
        return vec![format!(
            "src/{name}: the module {own} has no layer; add it to the table in tests/layers.rs"
        )];
    };
    let mut problems = Vec::new();
    for Import { line, module } in imports(code, module_depth(name)) {
        if module == own {
            continue;
        }
        match layer_of(&module) {
            None if module == "*" => problems.push(format!(
                "src/{name}:{line}: imports everything from the root of the crate; name the modules"
            )),
            None => problems.push(format!(
                "src/{name}:{line}: imports {module}, which has no layer; add it to the table in tests/layers.rs"
            )),
            Some(layer) if layer >= own_layer => problems.push(format!(
                "src/{name}:{line}: {own} (layer {own_layer}) imports {module} (layer {layer}); \
                 only lower layers may be imported"
            )),
            Some(_) => {}
        }
    }
    problems
}

/// `state` for `state/runs.rs`, `run` for `run.rs`.
fn module_of(name: &str) -> String {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs").to_owned()
}

/// How many `super::` lead from the file to the root of the crate.
fn module_depth(name: &str) -> usize {
    let parts = name.split('/').count();
    if name.ends_with("/mod.rs") { parts - 1 } else { parts }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Where `mod name;` in `path` may lie: a file, or a folder of files.
fn module_files(path: &Path, name: &str) -> [PathBuf; 2] {
    let folder =
        if path.file_name().is_some_and(|file| file == "mod.rs" || file == "lib.rs" || file == "main.rs") {
            path.parent().unwrap().to_owned()
        } else {
            path.with_extension("")
        };
    [folder.join(format!("{name}.rs")), folder.join(name)]
}

/// The source with comments, texts and character literals turned to blanks; lines stay where they are.
fn without_comments_and_texts(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_skipped(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// The end of the comment, text or character literal that begins at `at`; `at` when none does.
fn end_of_skipped(chars: &[char], at: usize) -> usize {
    let starts = |text: &str| text.chars().enumerate().all(|(n, c)| chars.get(at + n) == Some(&c));
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if starts("//") {
        return (at..chars.len()).find(|n| chars[*n] == '\n').unwrap_or(chars.len());
    }
    if starts("/*") {
        let (mut depth, mut n) = (0, at);
        while n < chars.len() {
            match (chars[n], chars.get(n + 1)) {
                ('/', Some('*')) => (depth, n) = (depth + 1, n + 2),
                ('*', Some('/')) => (depth, n) = (depth - 1, n + 2),
                _ => n += 1,
            }
            if depth == 0 {
                return n;
            }
        }
        return n;
    }
    let quote_end = |open: usize, quote: char| {
        let mut n = open + 1;
        while n < chars.len() && chars[n] != quote {
            n += if chars[n] == '\\' { 2 } else { 1 };
        }
        (n + 1).min(chars.len())
    };
    if starts("\"") {
        return quote_end(at, '"');
    }
    // Raw texts: r"…", r#"…"#, br"…"; but not a raw name such as r#type.
    let after_word = at > 0 && is_word(chars[at - 1]);
    if !after_word && (starts("r") || starts("br") || starts("cr")) {
        let mut n = at + if starts("r") { 1 } else { 2 };
        let hashes = chars[n..].iter().take_while(|c| **c == '#').count();
        n += hashes;
        if chars.get(n) == Some(&'"') {
            let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let end = (n + 1..chars.len()).find(|n| chars[*n..].starts_with(&closing));
            return end.map_or(chars.len(), |end| end + closing.len());
        }
    }
    if starts("'") {
        // A lifetime has a letter and no closing quote after it.
        let is_literal = chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'');
        if is_literal {
            return quote_end(at, '\'');
        }
    }
    at
}

/// The code without items under `#[cfg(test)]`, and the names of the modules these declare in other files.
fn without_test_items(code: &str) -> (String, Vec<String>) {
    let mut code = code.to_owned();
    let mut modules = Vec::new();
    for marker in ["#[cfg(test)]", "#[cfg(all(test,"] {
        while let Some(start) = code.find(marker) {
            let end = end_of_item(&code, start + marker.len());
            let item = &code[start..end];
            if item.ends_with(';') {
                let mut words = item.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                if words.any(|word| word == "mod") {
                    modules.extend(words.next().map(str::to_owned));
                }
            }
            let blank: String = item.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            code.replace_range(start..end, &blank);
        }
    }
    (code, modules)
}

/// The end of the item from `start` on: its first `;`, or the end of its first braces.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (n, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b';' if depth == 0 => return n + 1,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth <= 0 {
                    return n + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Everything `code` names at the root of the crate. `depth` is the number of `super::` to get there.
fn imports(code: &str, depth: usize) -> BTreeSet<Import> {
    let mut found = BTreeSet::new();
    let mut add = |at: usize, module: &str| {
        found.insert(Import { line: code[..at].matches('\n').count() + 1, module: module.to_owned() });
    };
    for root in ["crate", "backup_agent"] {
        for at in words(code, root) {
            for (at, module) in roots_after(code, at + root.len()) {
                add(at, module);
            }
        }
    }
    let climb = vec!["super"; depth].join("::");
    for at in words(code, &climb) {
        let is_longer_chain = code[..at].trim_end().ends_with("::");
        if !is_longer_chain {
            // Within a module written in the file itself, as many `super` do not reach the root: only names
            // of the table are taken for modules.
            for (at, module) in roots_after(code, at + climb.len()) {
                if layer_of(module).is_some() {
                    add(at, module);
                }
            }
        }
    }
    found
}

/// Where `word` stands in `code` as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// The first names after a root that ends at `at`: one for a path, one an item for a group.
fn roots_after(code: &str, at: usize) -> Vec<(usize, &str)> {
    let Some(at) = skip(code, at, "::") else { return Vec::new() };
    let Some(mut at) = skip(code, at, "{") else { return first_name(code, at).into_iter().collect() };
    let mut found = Vec::new();
    let mut depth = 1;
    let mut is_start = true;
    while depth > 0 && at < code.len() {
        if is_start && let Some((start, name)) = first_name(code, at) {
            found.push((start, name));
            at = start + name.len();
            is_start = false;
            continue;
        }
        let c = code[at..].chars().next().unwrap_or(' ');
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => is_start = true,
            _ => {}
        }
        at += c.len_utf8();
    }
    found
}

/// The position after `token`, when it comes next.
fn skip(code: &str, at: usize, token: &str) -> Option<usize> {
    let rest = code[at..].trim_start();
    rest.starts_with(token).then(|| code.len() - rest.len() + token.len())
}

/// The name, or `*`, that comes next.
fn first_name(code: &str, at: usize) -> Option<(usize, &str)> {
    let rest = code[at..].trim_start();
    if rest.starts_with('*') {
        return Some((code.len() - rest.len(), &rest[..1]));
    }
    let rest = rest.strip_prefix("r#").unwrap_or(rest);
    let start = code.len() - rest.len();
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    (end > 0).then(|| (start, &rest[..end]))
}

fn found_in(name: &str, source: &str) -> Vec<String> {
    let (code, _) = without_test_items(&without_comments_and_texts(source));
    check_file(name, &code)
}

#[test]
fn an_import_of_a_higher_or_the_same_layer_is_named_with_its_line_and_layers() {
    assert_eq!(
        found_in("state/runs.rs", "use std::fs;\n\nuse crate::run::Run;\n"),
        ["src/state/runs.rs:3: state (layer 3) imports run (layer 6); only lower layers may be imported"]
    );
    assert_eq!(
        found_in("metrics.rs", "fn f() { crate::ops::prune() }"),
        ["src/metrics.rs:1: metrics (layer 5) imports ops (layer 5); only lower layers may be imported"]
    );
    assert_eq!(found_in("web/mod.rs", "use crate::run;").len(), 1);
    assert_eq!(found_in("run.rs", "use backup_agent::web::serve;").len(), 1);
}

#[test]
fn lower_layers_and_the_own_folder_are_free() {
    let source = "use crate::model::RunId;\nuse crate::state::Db;\nuse super::Db;\npub(crate) fn f(x: &crate::event::Event) {}";
    assert_eq!(found_in("state/runs.rs", source), Vec::<String>::new());
    assert_eq!(found_in("main.rs", "fn main() { backup_agent::cli::main() }"), Vec::<String>::new());
}

#[test]
fn groups_are_looked_into_however_they_are_broken_and_nested() {
    let source = "use crate::{\n    model::{run, JobName},\n    daemon::{self, Loop},\n    web,\n};";
    assert_eq!(
        found_in("ops/mod.rs", source),
        [
            "src/ops/mod.rs:3: ops (layer 5) imports daemon (layer 7); only lower layers may be imported",
            "src/ops/mod.rs:4: ops (layer 5) imports web (layer 6); only lower layers may be imported",
        ]
    );
    assert_eq!(found_in("ops/mod.rs", "use crate :: { model , cli } ;").len(), 1);
}

#[test]
fn climbing_to_the_root_is_an_import_and_climbing_to_the_folder_is_none() {
    assert_eq!(found_in("lock.rs", "use super::daemon::Loop;").len(), 1);
    assert_eq!(found_in("state/runs.rs", "use super::super::daemon::Loop;").len(), 1);
    assert_eq!(found_in("state/mod.rs", "use super::daemon;").len(), 1);
    assert_eq!(found_in("state/runs.rs", "use super::daemon;"), Vec::<String>::new());
    assert_eq!(found_in("lock.rs", "mod inner { use super::Thing; }"), Vec::<String>::new());
}

#[test]
fn comments_texts_and_test_code_are_not_imports() {
    let source = r##"
        //! See [`crate::daemon`].
        /* crate::cli /* nested crate::web */ crate::run */
        const A: &str = "crate::daemon \" crate::cli";
        const B: &str = r#"crate::daemon " crate::cli"#;
        const C: char = '"'; // crate::run
        fn f<'a>(x: &'a str) -> char { '\'' }
        #[cfg(test)]
        use crate::daemon::Loop;
        #[cfg(test)]
        mod tests {
            use crate::daemon::Loop;
            fn g() { if true { crate::cli::main() } }
        }
        fn h() { crate::web::serve() }
    "##;
    let found = found_in("model.rs", source);
    assert_eq!(
        found,
        ["src/model.rs:15: model (layer 0) imports web (layer 6); only lower layers may be imported"]
    );
}

#[test]
fn files_of_test_modules_are_known() {
    let (_, modules) = without_test_items("#[cfg(test)]\nmod tests;\nmod other;");
    assert_eq!(modules, ["tests"]);
    assert_eq!(module_files(Path::new("src/lock.rs"), "tests")[0], Path::new("src/lock/tests.rs"));
    assert_eq!(module_files(Path::new("src/state/mod.rs"), "tests")[0], Path::new("src/state/tests.rs"));
    assert_eq!(module_files(Path::new("src/state/runs.rs"), "tests")[1], Path::new("src/state/runs/tests"));
}

#[test]
fn what_is_not_in_the_table_is_named() {
    assert_eq!(
        found_in("helpers/mod.rs", ""),
        ["src/helpers/mod.rs: the module helpers has no layer; add it to the table in tests/layers.rs"]
    );
    assert_eq!(
        found_in("cli/mod.rs", "use crate::helpers::x;"),
        ["src/cli/mod.rs:1: imports helpers, which has no layer; add it to the table in tests/layers.rs"]
    );
    assert_eq!(found_in("cli/mod.rs", "use crate::*;").len(), 1);
}
