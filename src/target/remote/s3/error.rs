//! What went wrong with a request, and what that means.

use std::fmt;

use chrono::{DateTime, Utc};

use super::xml::ErrorBody;
use crate::target::remote::http::Failure;
use crate::target::{Permanent, Unreached};

/// How much of a store's own words is passed on.
const LONGEST_MESSAGE: usize = 200;

/// A request that did not succeed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The store answered with another status than it should.
    Answer(Box<Answer>),
    /// There was no answer, or it broke off.
    Broken {
        /// Why, as a sentence without its beginning.
        text: String,
        /// No attempt succeeds before somebody changed something: the certificate is not accepted, say.
        permanent: bool,
    },
}

/// An answer that is no success.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: ErrorBody,
    /// `x-amz-bucket-region`.
    pub(super) region: Option<String>,
    /// The store's clock by its `Date`.
    pub(super) date: Option<String>,
    /// When the request was signed.
    pub(super) signed: Option<DateTime<Utc>>,
}

impl Fault {
    /// A request that came to nothing.
    pub(super) fn unreached(error: &reqwest::Error) -> Self {
        let Failure { reason, permanent } = Failure::unreached(error);
        Self::Broken { text: reason, permanent }
    }

    /// No answer, for this reason.
    pub(super) fn broken(text: impl Into<String>) -> Self {
        Self::Broken { text: text.into(), permanent: false }
    }

    /// The store's code, or nothing.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Answer(answer) => &answer.body.code,
            Self::Broken { .. } => "",
        }
    }

    /// The status of the answer; 0 without one.
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Answer(answer) => answer.status,
            Self::Broken { .. } => 0,
        }
    }

    /// Nothing of that name.
    pub(super) fn is_missing(&self) -> bool {
        self.status() == 404 && !matches!(self.code(), "NoSuchBucket" | "NoSuchUpload")
    }

    /// What was asked for is not allowed to these credentials; others may.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status() == 403 && matches!(self.code(), "AccessDenied" | "")
    }

    /// The store does not know what was asked for.
    pub(super) fn is_unknown(&self) -> bool {
        self.status() == 501 || matches!(self.code(), "NotImplemented" | "MethodNotAllowed")
    }

    /// A condition did not hold: something of that name is there, or is being written.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.status(), 409 | 412) && self.code() != "OperationAborted"
    }

    /// The same request may well succeed a moment later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Broken { permanent, .. } => !permanent,
            Self::Answer(answer) => {
                let code = answer.body.code.as_str();
                if matches!(code, "QuotaExceeded" | "XMinioStorageFull" | "NotImplemented") {
                    return false;
                }
                matches!(answer.status, 408 | 425 | 429 | 500 | 502..=506 | 508..=599)
                    || matches!(
                        code,
                        "RequestTimeout"
                            | "BadDigest"
                            | "XAmzContentSHA256Mismatch"
                            | "IncompleteBody"
                            | "SlowDown"
                            | "OperationAborted"
                            | "InternalError"
                    )
            }
        }
    }

    /// Whether the request may have been carried out all the same.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Broken { permanent, .. } => !permanent,
            Self::Answer(answer) => answer.status >= 500 && answer.status != 501,
        }
    }

    /// No attempt succeeds before somebody changed something.
    fn is_permanent(&self) -> bool {
        match self {
            Self::Broken { permanent, .. } => *permanent,
            Self::Answer(answer) => {
                matches!(answer.status, 301 | 307 | 308 | 401 | 403 | 405 | 501 | 507)
                    || matches!(
                        answer.body.code.as_str(),
                        "NoSuchBucket"
                            | "AuthorizationHeaderMalformed"
                            | "PermanentRedirect"
                            | "IllegalLocationConstraintException"
                            | "InvalidBucketName"
                            | "QuotaExceeded"
                            | "XMinioStorageFull"
                            | "InvalidRequest"
                            | "InvalidArgument"
                            | "EntityTooLarge"
                    )
            }
        }
    }

    /// Makes an error for people of it. `doing` is what was tried, with the address; `setting` names the region
    /// requests are signed for.
    pub(super) fn into_error(self, doing: &str, endpoint: &str, region: &str) -> anyhow::Error {
        let (permanent, missing) = (self.is_permanent(), self.is_missing());
        let text = format!("{doing} at {endpoint}: {}", Told { fault: &self, region });
        match permanent {
            true => Permanent(text).into(),
            false if missing => anyhow::anyhow!(text),
            false => Unreached(text).into(),
        }
    }
}

/// A fault in words, with what to do.
struct Told<'a> {
    fault: &'a Fault,
    region: &'a str,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match self.fault {
            // These are this program's own words.
            Fault::Broken { text, .. } => return f.write_str(text),
            Fault::Answer(answer) => answer,
        };
        match answer.body.code.as_str() {
            "" => write!(f, "the store answered with status {}", answer.status)?,
            code => write!(f, "the store answered {} (status {})", one_line(code), answer.status)?,
        }
        if !answer.body.message.is_empty() {
            write!(f, ": {}", one_line(&answer.body.message).trim_end_matches('.'))?;
        }
        let region = answer.body.region.as_ref().or(answer.region.as_ref());
        match (answer.body.code.as_str(), answer.status) {
            ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) | (_, 301 | 307 | 308) => {
                match region {
                    Some(found) if found != self.region => write!(
                        f,
                        "; the bucket is in the region {}, and `region` says {}: correct it",
                        one_line(found),
                        self.region
                    ),
                    _ => write!(f, "; check `region` (it says {}) and `endpoint`", self.region),
                }
            }
            ("InvalidAccessKeyId", _) => write!(f, "; check `access_key_id`"),
            ("SignatureDoesNotMatch", _) => write!(
                f,
                "; check the secret access key: it is another one's than `access_key_id` names, or was cut when copied"
            ),
            ("RequestTimeTooSkewed" | "RequestExpired", _) => {
                let theirs = answer.body.server_time.as_ref().or(answer.date.as_ref());
                let theirs = theirs.map_or_else(|| "unknown".to_owned(), |time| one_line(time));
                let ours =
                    answer.signed.map_or_else(String::new, |t| t.format("%Y-%m-%dT%H:%M:%SZ").to_string());
                write!(f, "; the store's clock says {theirs}, this machine's {ours}: set the wrong one (NTP)")
            }
            ("AccessDenied" | "", 401 | 403) => write!(
                f,
                "; these credentials may not do that: check the policy of the user and of the bucket, and whether the clock is right"
            ),
            ("NoSuchBucket", _) => write!(f, "; create the bucket, or correct `bucket` and `endpoint`"),
            ("QuotaExceeded" | "XMinioStorageFull", _) | (_, 507) => {
                write!(f, "; make room there: a smaller `keep`, or a larger quota")
            }
            ("ObjectLockConfigurationNotFoundError" | "InvalidRequest", 400 | 404) => {
                write!(f, "; `object_lock` needs a bucket that was made with Object Lock")
            }
            _ => Ok(()),
        }
    }
}

/// What somebody else wrote, as one short line without control characters.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim();
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::is_permanent;

    fn fault(status: u16, code: &str) -> Fault {
        let body = ErrorBody { code: code.to_owned(), message: "Words.".to_owned(), ..ErrorBody::default() };
        let signed = Some("2026-11-24T18:00:00Z".parse().unwrap());
        Fault::Answer(Box::new(Answer { status, body, signed, ..Answer::default() }))
    }

    fn told(fault: Fault) -> (String, bool) {
        let error = fault.into_error("reading s3://b/k", "https://s3.example.org", "us-east-1");
        let permanent = is_permanent(&error);
        (format!("{error:#}"), permanent)
    }

    #[test]
    fn what_needs_a_person_is_permanent_and_says_what_to_do() {
        for (status, code, expected) in [
            (403, "InvalidAccessKeyId", "check `access_key_id`"),
            (403, "SignatureDoesNotMatch", "check the secret access key"),
            (403, "AccessDenied", "check the policy"),
            (404, "NoSuchBucket", "create the bucket"),
            (400, "AuthorizationHeaderMalformed", "check `region` (it says us-east-1)"),
            (301, "PermanentRedirect", "check `region`"),
            (403, "RequestTimeTooSkewed", "this machine's 2026-11-24T18:00:00Z"),
            (403, "QuotaExceeded", "make room"),
            (507, "", "make room"),
            (403, "", "may not do that"),
        ] {
            let (text, permanent) = told(fault(status, code));
            assert!(permanent, "{text}");
            assert!(text.starts_with("reading s3://b/k at https://s3.example.org: "), "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(!fault(status, code).passes(), "{text}");
        }
        let broken = Fault::Broken { text: "the certificate has expired".to_owned(), permanent: true };
        assert!(told(broken).1);
    }

    #[test]
    fn the_right_region_is_named() {
        let mut answer = Answer { status: 400, ..Answer::default() };
        answer.body.code = "AuthorizationHeaderMalformed".to_owned();
        answer.body.region = Some("eu-central-1".to_owned());
        let (text, _) = told(Fault::Answer(Box::new(answer)));
        assert!(
            text.ends_with(
                "the bucket is in the region eu-central-1, and `region` says us-east-1: correct it"
            )
        );
    }

    #[test]
    fn what_passes_is_tried_again_and_not_told_as_permanent() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (504, ""),
            (429, ""),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
            (409, "OperationAborted"),
        ] {
            assert!(fault(status, code).passes(), "{status} {code}");
            assert!(!told(fault(status, code)).1, "{status} {code}");
        }
        assert!(Fault::broken("connection reset").passes());
        assert!(!fault(404, "NoSuchUpload").passes());
        assert!(!fault(412, "PreconditionFailed").passes());
    }
}
