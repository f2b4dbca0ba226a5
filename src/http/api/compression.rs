//! gzip for large responses, as RFC 9110 describes it.
//!
//! A small response gains nothing: it fits into the packets that its header takes. To compress what
//! is secret is safe here, because a page of another site cannot have it sent: see
//! [`middleware`](super::middleware), which calls this for each response.

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use super::byte_budget::Reservation;
use super::{etag, response_layer};
use crate::http::sending::GuardedBody;

/// Smallest body that is compressed, in bytes: larger than a usual room.
const MIN_BODY: u64 = 4096;

/// Memory of a compressor, which exists until the client has accepted almost all of the response.
const COMPRESSOR_BYTES: usize = 320 * 1024;

/// Whether the client accepts gzip.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            value.parse::<f32>().ok().filter(|_quality| name.eq_ignore_ascii_case("q"))
        });
        name.eq_ignore_ascii_case("gzip") && quality.is_none_or(|quality| quality > 0.0)
    })
}

/// Whether a response is large enough.
pub(super) fn is_worthwhile(response: &Response) -> bool {
    // The response to HEAD may have no body any more, but has its length.
    let length = response.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(response.body().size_hint().lower()) >= MIN_BODY
}

/// Compresses a response. The compressor counts as a part of what may be sent to the client at once;
/// if there is no place for it, the response is sent as it is.
pub(super) async fn compress(
    mut response: Response,
    open: impl FnOnce() -> Reservation,
) -> Response {
    let mut memory = open();
    if !memory.extend(COMPRESSOR_BYTES) {
        return response;
    }
    etag::mark_compressed(response.headers_mut());
    // Around all requests, the layer would answer 406 where a client accepts none of its codings.
    let mut request = Request::new(response);
    let gzip = HeaderValue::from_static("gzip");
    request.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest);
    let layer = layer.compress_when(|_, _, _: &_, _: &_| true);
    let compressed = response_layer::apply(&layer, request).await;
    compressed.map(|body| Body::new(GuardedBody::new(Body::new(body), memory)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_clients_that_accept_it() {
        let accepts = |coding| {
            let value = HeaderValue::from_static(coding);
            is_accepted(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]))
        };
        for coding in ["gzip", "GZIP", "br, gzip;q=0.5", "deflate , gzip ; q=1"] {
            assert!(accepts(coding), "{coding}");
        }
        for coding in ["", "br", "gzip;q=0", "gzip;Q=0", "gzip; q=0.0", "*", "identity;q=0"] {
            assert!(!accepts(coding), "{coding}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }
}
