//! What a request asks for, and whether it may.

use std::net::IpAddr;

use crate::model::{JobName, RunId};

/// What a path answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Overview,
    Job(JobName),
    Run(RunId),
    Icon(&'static str),
    Metrics,
    Alive,
    Ready,
    Status,
}

/// Paths that are one thing each.
const FIXED: &[(&str, Route)] = &[
    ("/", Route::Overview),
    ("/metrics", Route::Metrics),
    ("/healthz", Route::Alive),
    ("/readyz", Route::Ready),
    ("/api/v1/status", Route::Status),
];

/// Nothing answers a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// It begins like that of a job, and names none that could be.
    Job,
    /// It begins like that of a run, and names none that could be.
    Run,
    /// Any other.
    Other,
}

/// The route of a path. Names need no decoding: a job's and a run's have only characters that stand for
/// themselves in a path.
pub(super) fn route(path: &str) -> Result<Route, NoRoute> {
    if let Some((_, route)) = FIXED.iter().find(|(fixed, _)| *fixed == path) {
        return Ok(route.clone());
    }
    if let Some(name) = path.strip_prefix("/jobs/") {
        return name.parse().map(Route::Job).map_err(|_| NoRoute::Job);
    }
    if let Some(id) = path.strip_prefix("/runs/") {
        return id.parse().map(Route::Run).map_err(|_| NoRoute::Run);
    }
    let state = path.strip_prefix("/icon/").and_then(|file| file.strip_suffix(".svg"));
    state
        .and_then(|state| ICONS.iter().find(|(known, _)| *known == state))
        .map(|(_, icon)| Route::Icon(icon))
        .ok_or(NoRoute::Other)
}

/// The sign in the browser's tab. Shape and colour both tell the state.
const ICONS: &[(&str, &str)] = &[
    (
        "ok",
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="8" fill="#1a7f43"/><path d="M4.4 8.2l2.5 2.6 4.6-5.3" fill="none" stroke="#fff" stroke-width="2"/></svg>"##,
    ),
    (
        "warning",
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M8 0l8 15H0z" fill="#e0a100"/><path d="M8 5v5M8 11.5v2" stroke="#000" stroke-width="2"/></svg>"##,
    ),
    (
        "critical",
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7z" fill="#c5221f"/><path d="M5 5l6 6M11 5l-6 6" stroke="#fff" stroke-width="2"/></svg>"##,
    ),
    ("unknown", NEUTRAL),
    ("running", NEUTRAL),
    ("paused", NEUTRAL),
];
const NEUTRAL: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="8" fill="#5a6470"/><path d="M4.5 8h7" stroke="#fff" stroke-width="2"/></svg>"##;

/// Whether the reader asked for a page that reloads: `/?watch`.
pub(super) fn is_watched(query: Option<&str>) -> bool {
    query == Some("watch")
}

/// Whether a `Host` header names this server: an address of any kind (a name is what an attacker would let
/// resolve to us), `localhost`, or the host's own name; with or without a port.
pub(super) fn is_own_host(header: &str, own: &str) -> bool {
    let name = match header.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => header.rsplit_once(':').map_or(header, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || name == own.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_the_own_name_are_own_and_other_names_are_not() {
        for host in
            ["127.0.0.1:9736", "127.0.0.1", "[::1]:9736", "[::1]", "localhost", "LOCALHOST:1", "Db1:9736"]
        {
            assert!(is_own_host(host, "db1"), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9736", "127.0.0.1.evil.example", "", "localhost.evil.example"]
        {
            assert!(!is_own_host(host, "db1"), "{host}");
        }
    }

    #[test]
    fn a_path_is_a_route_only_when_its_name_is_one() {
        assert_eq!(route("/"), Ok(Route::Overview));
        assert_eq!(route("/jobs/web-1"), Ok(Route::Job("web-1".parse().unwrap())));
        let id = "20261124T180000Z-k3f9qa";
        assert_eq!(route(&format!("/runs/{id}")), Ok(Route::Run(id.parse().unwrap())));
        assert!(matches!(route("/icon/ok.svg"), Ok(Route::Icon(svg)) if svg.starts_with("<svg")));
        let long = format!("/jobs/{}", "a".repeat(65));
        for job in ["/jobs/", "/jobs/Web", "/jobs/a/b", "/jobs/%3Cscript%3E", "/jobs/..", "/jobs/a?b", &long]
        {
            assert_eq!(route(job), Err(NoRoute::Job), "{job}");
        }
        for run in ["/runs/", "/runs/latest", "/runs/20261124T180000Z-k3f9qa/", "/runs/'--"] {
            assert_eq!(route(run), Err(NoRoute::Run), "{run}");
        }
        for other in ["", "//", "/jobs", "/runs", "/icon/", "/icon/x.svg", "/icon/ok", "/favicon.ico", "*"] {
            assert_eq!(route(other), Err(NoRoute::Other), "{other}");
        }
    }
}
