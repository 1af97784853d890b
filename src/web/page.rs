//! The landing page.
use super::View;
pub(super) fn render(_view: &View) -> String { String::new() }
pub(super) fn unreadable(_host: &str, _reason: &str) -> String { String::new() }
