//! Dashboards as the tests see them: panels, queries, and the expressions with Grafana's variables filled in.

use std::fs;
use std::path::{Path, PathBuf};

use promql_parser::parser::{self, Expr, MatrixSelector, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub struct Dashboard {
    /// `fleet.json`.
    pub file: String,
    pub json: Value,
}

pub fn dashboards() -> Vec<Dashboard> {
    let mut all: Vec<Dashboard> = fs::read_dir(project("dashboards"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| Dashboard {
            file: path.file_name().unwrap().to_string_lossy().into_owned(),
            json: serde_json::from_slice(&fs::read(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        })
        .collect();
    all.sort_by(|a, b| a.file.cmp(&b.file));
    assert_eq!(all.iter().map(|d| d.file.as_str()).collect::<Vec<_>>(), ["fleet.json", "job.json"]);
    all
}

impl Dashboard {
    /// All panels, headings (`row`) included.
    pub fn panels(&self) -> &[Value] {
        list(&self.json["panels"])
    }

    /// Panels that show something.
    pub fn shown(&self) -> impl Iterator<Item = &Value> {
        self.panels().iter().filter(|panel| panel["type"] != "row")
    }

    pub fn variables(&self) -> &[Value] {
        list(&self.json["templating"]["list"])
    }

    pub fn annotations(&self) -> &[Value] {
        list(&self.json["annotations"]["list"])
    }

    /// Every query of panels and annotations.
    pub fn queries(&self) -> Vec<Query<'_>> {
        let mut all = Vec::new();
        for panel in self.shown() {
            for target in list(&panel["targets"]) {
                let place =
                    format!("{}: {}, query {}", self.file, text(&panel["title"]), text(&target["refId"]));
                let legend = target["legendFormat"].as_str().unwrap_or("");
                let instant = target["instant"] == true;
                all.push(Query { place, expr: text(&target["expr"]), instant, labelled: vec![legend] });
            }
        }
        for annotation in self.annotations().iter().filter(|annotation| annotation["builtIn"] != 1) {
            let place = format!("{}: annotation {}", self.file, text(&annotation["name"]));
            let labelled = vec![text(&annotation["titleFormat"]), text(&annotation["textFormat"])];
            all.push(Query { place, expr: text(&annotation["expr"]), instant: false, labelled });
        }
        all
    }
}

/// One query.
pub struct Query<'a> {
    /// Where it stands, for messages.
    pub place: String,
    pub expr: &'a str,
    /// Asked for one moment, not for the time range.
    pub instant: bool,
    /// Texts with `{{label}}` in them.
    pub labelled: Vec<&'a str>,
}

/// What stands for Grafana's variables.
pub struct Filling {
    pub instance: &'static str,
    pub backup_job: &'static str,
    pub rate_interval: &'static str,
    pub range: &'static str,
}

/// Values that stand nowhere else, so that what a matcher or a range was made of can be told.
pub const TRACEABLE: Filling =
    Filling { instance: "THE-INSTANCE", backup_job: "THE-JOB", rate_interval: "611s", range: "86399s" };

impl Filling {
    pub fn fill(&self, expr: &str) -> String {
        let filled = expr
            .replace("$__rate_interval", self.rate_interval)
            .replace("$__range", self.range)
            .replace("$instance", self.instance)
            .replace("$backup_job", self.backup_job);
        assert!(!filled.contains('$'), "a variable is left: {filled}");
        filled
    }
}

pub fn parse(place: &str, expr: &str) -> Expr {
    parser::parse(expr).unwrap_or_else(|error| panic!("{place}: {error}\n{expr}"))
}

/// A selector in an expression, and the function whose argument it is.
#[derive(Debug, Clone)]
pub struct Selected {
    pub selector: VectorSelector,
    /// The range, of a range selector.
    pub range: Option<std::time::Duration>,
    /// The function that takes the range.
    pub function: Option<&'static str>,
}

impl Selected {
    pub fn metric(&self) -> &str {
        self.selector.name.as_deref().expect("every selector names its metric")
    }

    /// Name, operator and value of each matcher.
    pub fn matchers(&self) -> impl Iterator<Item = (&str, String, &str)> {
        let all = &self.selector.matchers.matchers;
        all.iter().map(|m| (m.name.as_str(), m.op.to_string(), m.value.as_str()))
    }

    pub fn has(&self, name: &str, op: &str, values: &[&str]) -> bool {
        self.matchers().any(|(n, o, v)| n == name && o == op && values.contains(&v))
    }
}

/// What an expression uses.
#[derive(Default)]
pub struct Uses {
    pub selected: Vec<Selected>,
    /// Labels in `by`, `without`, `on`, `ignoring` and `group_left`.
    pub labels: Vec<String>,
    function: Option<&'static str>,
}

pub fn uses(expr: &Expr) -> Uses {
    let mut uses = Uses::default();
    walk_expr(&mut uses, expr).unwrap();
    uses
}

impl Uses {
    fn select(&mut self, selector: &VectorSelector, range: Option<std::time::Duration>) {
        let function = range.and(self.function);
        self.selected.push(Selected { selector: selector.clone(), range, function });
    }
}

impl ExprVisitor for Uses {
    type Error = std::convert::Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Self::Error> {
        match expr {
            Expr::Call(call) => self.function = Some(call.func.name),
            Expr::VectorSelector(selector) => self.select(selector, None),
            Expr::MatrixSelector(MatrixSelector { vs, range }) => self.select(vs, Some(*range)),
            Expr::Aggregate(aggregate) => {
                if let Some(modifier) = &aggregate.modifier {
                    self.labels.extend(modifier.labels().labels.iter().cloned());
                }
            }
            Expr::Binary(binary) => {
                if let Some(matching) =
                    binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref())
                {
                    self.labels.extend(matching.labels().labels.iter().cloned());
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

/// The labels in a text with `{{label}}`.
pub fn labels_in(text: &str) -> Vec<&str> {
    text.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim()).collect()
}

#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[track_caller]
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}
