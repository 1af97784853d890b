//! The style sheet of the pages, and the policy that allows it and nothing else.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

/// The style sheet, in the page itself: one request shows everything, also through a tunnel.
pub(super) const CSS: &str = include_str!("style.css");

/// `Content-Security-Policy`: this style sheet by its digest, the tab's icon; no script, no frame, no form. Were
/// anything on a page ever not escaped, it could still load and run nothing.
pub(super) fn content_security_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let digest = BASE64.encode(Sha256::digest(CSS.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{digest}'; img-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        )
    });
    &POLICY
}
