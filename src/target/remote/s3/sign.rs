//! Signatures of requests, as AWS describes them (Signature Version 4). Pure: the time is given.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::model::Secret;

/// The digest of an empty body.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What requests are signed with.
pub(super) struct Credentials {
    pub(super) key_id: String,
    pub(super) secret: Secret,
}

/// What is signed of a request.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// The path as it is sent, encoded.
    pub(super) path: &'a str,
    /// The query as it is sent: encoded, sorted by name.
    pub(super) query: &'a str,
    /// Names in lower case with values, `host` among them.
    pub(super) headers: &'a [(String, String)],
    /// SHA-256 of the body in hexadecimal digits.
    pub(super) body: &'a str,
}

/// The time as a header gives it: `20261124T180000Z`.
pub(super) fn stamp(now: DateTime<Utc>) -> String {
    now.format("%Y%m%dT%H%M%SZ").to_string()
}

/// The value of `Authorization`.
pub(super) fn authorization(
    credentials: &Credentials,
    region: &str,
    now: DateTime<Utc>,
    request: &Signed<'_>,
) -> String {
    let mut headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let Signed { method, path, query, body, .. } = request;
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body}");
    let day = now.format("%Y%m%d").to_string();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let digest = hex::encode(Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", stamp(now));
    let first = format!("AWS4{}", credentials.secret.expose());
    let parts = [day.as_str(), region, "s3", "aws4_request", text.as_str()];
    let signature = parts.iter().fold(first.into_bytes(), |key, part| keyed(&key, part));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={}",
        credentials.key_id,
        hex::encode(signature)
    )
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    #[allow(clippy::expect_used)] // HMAC takes keys of every length
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A text as it may stand in a path or query; slashes stay when they part a key.
pub(super) fn encode(text: &str, keep_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            b'/' if keep_slashes => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The query of a request: encoded, sorted.
pub(super) fn query(parts: &[(&str, &str)]) -> String {
    let mut parts: Vec<String> = parts
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
        .collect();
    parts.sort_unstable();
    parts.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(method: &str, path: &str, query: &str, headers: &[(&str, &str)], body: &str) -> String {
        // The examples in the documentation of AWS, "Signature Calculations for the Authorization Header".
        let credentials = Credentials {
            key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        };
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        let mut headers: Vec<(String, String)> =
            headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        headers.push(("host".to_owned(), "examplebucket.s3.amazonaws.com".to_owned()));
        headers.push(("x-amz-date".to_owned(), stamp(now)));
        headers.push(("x-amz-content-sha256".to_owned(), body.to_owned()));
        let signed = Signed { method, path, query, headers: &headers, body };
        let all = authorization(&credentials, "us-east-1", now, &signed);
        all.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_examples() {
        assert_eq!(
            example("GET", "/test.txt", "", &[("range", "bytes=0-9")], EMPTY),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let body = hex::encode(Sha256::digest("Welcome to Amazon S3."));
        let headers =
            [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(
            example("PUT", "/test%24file.text", "", &headers, &body),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            example("GET", "/", "lifecycle=", &[], EMPTY),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            example("GET", "/", &query(&[("prefix", "J"), ("max-keys", "2")]), &[], EMPTY),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn keys_are_encoded_byte_by_byte() {
        assert_eq!(encode("web 1/ä+~.zst", true), "web%201/%C3%A4%2B~.zst");
        assert_eq!(encode("a/b", false), "a%2Fb");
        assert_eq!(query(&[("uploads", ""), ("a b", "c/d")]), "a%20b=c%2Fd&uploads=");
    }
}
