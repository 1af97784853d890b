//! Pages, compressed for those who take that: a host with many jobs has long ones.

use std::io;

use async_compression::tokio::write::GzipEncoder;
use http_body_util::{BodyExt as _, Full};
use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use tokio::io::AsyncWriteExt as _;

use super::answers::Answer;

/// Shorter ones gain nothing.
const WORTH_IT: usize = 4096;

/// The answer as it goes out: a page of some length as gzip, when the request takes that; anything else as it is.
pub(super) async fn fitting(mut answer: Answer, request: &HeaderMap) -> Answer {
    let is_page =
        answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !is_page {
        return answer;
    }
    answer.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    let Ok(body) = answer.body_mut().collect().await.map(|body| body.to_bytes());
    let packed = if body.len() >= WORTH_IT && takes_gzip(request) { gzip(&body).await.ok() } else { None };
    match packed {
        Some(packed) => {
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            *answer.body_mut() = Full::new(packed.into());
        }
        None => *answer.body_mut() = Full::new(body),
    }
    answer
}

async fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await?;
    encoder.shutdown().await?;
    Ok(encoder.into_inner())
}

/// Whether `Accept-Encoding` names gzip, and not with a weight of 0.
fn takes_gzip(request: &HeaderMap) -> bool {
    let fields = request.get_all(ACCEPT_ENCODING).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)));
        named && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_for_those_only_who_take_it() {
        let takes = |text: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(text))]))
        };
        assert!(takes("gzip") && takes("br, GZIP;q=0.5") && takes("deflate, gzip"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("gzip;q=0.0, br") && !takes(""));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_long_page_is_packed_whole() {
        let page = "<p>job-with-a-long-name: good</p>\n".repeat(3000);
        let packed = gzip(page.as_bytes()).await.unwrap();
        assert!(packed.len() < page.len() / 10);
        let mut plain = Vec::new();
        let mut decoder = async_compression::tokio::bufread::GzipDecoder::new(&packed[..]);
        tokio::io::AsyncReadExt::read_to_end(&mut decoder, &mut plain).await.unwrap();
        assert_eq!(plain, page.as_bytes());
    }
}
