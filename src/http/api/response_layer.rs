//! Layers of tower that are applied to single responses. Around all requests, each would cost every
//! poll something.
//!
//! [`compression`](super::compression) and [`origins`](super::origins) decide which responses need
//! them.

use std::convert::Infallible;
use std::future::{Ready, ready};

use axum::extract::Request;
use axum::response::Response;
use tower::util::ServiceFn;
use tower::{Layer, Service, service_fn};

/// Answers a request by the response that it contains.
type Unwrap = ServiceFn<fn(Request<Response>) -> Ready<Result<Response, Infallible>>>;

/// What the layer makes of the response to a request, which contains the response.
pub(super) async fn apply<L, B>(layer: &L, request: Request<Response>) -> Response<B>
where
    L: Layer<Unwrap>,
    L::Service: Service<Request<Response>, Response = Response<B>, Error = Infallible>,
{
    let answer: fn(_) -> _ = |request: Request<Response>| ready(Ok(request.into_body()));
    match layer.layer(service_fn(answer)).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
