//! Bodies of requests: how long a client may take to send one, how much memory they take, and what
//! happens to a body that no handler has read.
//!
//! A request may be refused before its body was read. What is left of the body would then be taken
//! for the next request, so it is read and dropped; if it is too long for that, the response has to
//! announce that the connection is closed. [`middleware`](super::middleware) calls this.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use super::byte_budget::Reservation;
use super::ocs::OcsError;

/// Time for the next piece of a body.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a body that are read only to keep the connection, and the time for that.
const MAX_REST: u64 = 1024 * 1024;
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that a handler reads, entirely or not.
#[derive(Clone)]
pub(super) struct RequestBody(Arc<Mutex<Received>>);

struct Received {
    body: Pin<Box<TimeoutBody<Body>>>,
    reservation: Reservation,
    /// The client sends the body only if it is asked to.
    awaits_continue: bool,
    failure: Option<BodyFailure>,
}

/// Why a body cannot be read any further.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum BodyFailure {
    #[error("the body arrived too slowly")]
    TooSlow,
    #[error("too much is being received, try again")]
    OverBudget,
}

impl RequestBody {
    /// The request, with a body that its handler may leave unread. Its bytes are taken from the
    /// budget for as long as both live. `None` if there is no body.
    pub(super) fn of(
        request: Request,
        open: impl FnOnce() -> Reservation,
    ) -> (Request, Option<Self>) {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return (Request::from_parts(parts, body), None);
        }
        let received = Received {
            body: Box::pin(TimeoutBody::new(PIECE_TIMEOUT, body)),
            reservation: open(),
            awaits_continue: parts.headers.contains_key(header::EXPECT),
            failure: None,
        };
        let body = Self(Arc::new(Mutex::new(received)));
        (Request::from_parts(parts, Body::new(body.clone())), Some(body))
    }

    pub(super) fn failure(&self) -> Option<BodyFailure> {
        self.0.lock().failure
    }

    /// Reads and drops the rest. False if the connection cannot be used again.
    pub(super) async fn skip_rest(&self) -> bool {
        {
            let Received { body, awaits_continue, failure, .. } = &*self.0.lock();
            if body.is_end_stream() {
                return true;
            }
            let is_long = body.size_hint().lower() > MAX_REST;
            if *awaits_continue || failure.is_some() || is_long {
                return false;
            }
        }
        let next = |context: &mut Context<'_>| self.0.lock().body.as_mut().poll_frame(context);
        let reading = async {
            let mut length = 0;
            while length <= MAX_REST {
                match poll_fn(next).await {
                    Some(Ok(frame)) => {
                        let data = frame.data_ref().map_or(0, Bytes::len);
                        length += u64::try_from(data).unwrap_or(MAX_REST);
                    }
                    Some(Err(_broken)) => return false,
                    None => return true,
                }
            }
            false
        };
        timeout(REST_TIMEOUT, reading).await.unwrap_or(false)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let received = &mut *self.0.lock();
        // From here on, the client has been asked for the body.
        received.awaits_continue = false;
        let frame = ready!(received.body.as_mut().poll_frame(context));
        let failure = match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let is_within = received.reservation.extend(length);
                (!is_within).then_some(BodyFailure::OverBudget)
            }
            Some(Err(error)) if error.is::<TimeoutError>() => Some(BodyFailure::TooSlow),
            Some(Err(_)) | None => None,
        };
        received.failure = received.failure.or(failure);
        Poll::Ready(match failure {
            Some(failure) => Some(Err(failure.into())),
            None => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}

impl From<BodyFailure> for OcsError {
    fn from(failure: BodyFailure) -> Self {
        match failure {
            BodyFailure::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, failure),
            BodyFailure::OverBudget => Self::overloaded("request_bytes", failure),
        }
    }
}
