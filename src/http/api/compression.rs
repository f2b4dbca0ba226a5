//! gzip for large responses, as RFC 9110 describes it.
//!
//! A small response gains nothing: it fits into the packets that its header takes. To compress what
//! is secret is safe here, because a page of another site cannot have it sent: see
//! [`middleware`](super::middleware), which calls this for each response.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tower::{Service, service_fn};
use tower_http::CompressionLevel;
use tower_http::compression::Compression;

use super::byte_budget::Reservation;
use super::etag;

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
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        name.eq_ignore_ascii_case("gzip") && quality.is_none_or(|quality| quality > 0.0)
    })
}

/// Compresses a response if that is worth it. The compressor occupies a part of what the client may
/// have sent at once; without that, the response is sent as it is.
pub(super) async fn compress(
    mut response: Response,
    open: impl FnOnce() -> Reservation,
) -> Response {
    if response.body().size_hint().lower() < MIN_BODY {
        return response;
    }
    let mut memory = open();
    if !memory.extend(COMPRESSOR_BYTES) {
        return response;
    }
    etag::mark_compressed(response.headers_mut());
    // The layer compresses the response of a service to a request. Around all requests, it would
    // cost each poll something, and answer 406 where a client accepts none of its codings.
    let mut request = Request::new(response);
    let gzip = HeaderValue::from_static("gzip");
    request.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
    let answer: fn(Request<Response>) -> Ready<Result<Response, Infallible>> =
        |request| ready(Ok(request.into_body()));
    let compression = Compression::new(service_fn(answer)).quality(CompressionLevel::Fastest);
    let compressed = compression.compress_when(|_, _, _: &_, _: &_| true).call(request).await;
    match compressed {
        Ok(response) => response.map(|body| {
            let body = Body::new(body);
            Body::new(Compressed { body, _memory: memory })
        }),
        Err(never) => match never {},
    }
}

/// A body that occupies memory until it is sent.
struct Compressed {
    body: Body,
    _memory: Reservation,
}

impl HttpBody for Compressed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
        for coding in ["", "br", "gzip;q=0", "gzip; q=0.0", "*", "identity;q=0"] {
            assert!(!accepts(coding), "{coding}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }
}
