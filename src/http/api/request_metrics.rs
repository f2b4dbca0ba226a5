//! Counts requests, and measures how long they take, by route.
//!
//! This stands outside of the router, so that every request that is answered is counted, whatever
//! stops it, and finds its route by itself. A request whose client closes the connection before is
//! not counted. Clients can invent methods and paths, and each value of a label takes memory
//! forever: what has no route is counted as "other".

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode};
use metrics::{Counter, Histogram, SharedString};
use parking_lot::RwLock;

use super::header_names::PREFER;
use crate::metrics::{REQUEST_DURATION, REQUESTS};

const OTHER: &str = "other";

/// Ends of the routes on which reading waits: for new messages, and until a stream has caught up.
const WAITING: [&str; 2] = ["/chat/{token}", "/room/{token}/events"];

#[derive(Default)]
pub(super) struct RequestMetrics {
    /// The places of the routes in the list of their names.
    routes: matchit::Router<usize>,
    names: Vec<SharedString>,
    /// The places of [`WAITING`].
    waiting: Vec<usize>,
    /// To find a series by its labels costs as much as the rest of a poll's way through the
    /// middleware, so they are kept.
    series: RwLock<HashMap<(Labels, StatusCode), Series>>,
}

/// What a request is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    pub(super) method: &'static str,
    route: Option<usize>,
    /// Whether it may wait for a change, so that its duration says nothing about the server.
    may_wait: bool,
}

struct Series {
    requests: Counter,
    duration: Option<Histogram>,
}

impl RequestMetrics {
    /// For these paths, in the notation of the router.
    pub(super) fn of(
        paths: impl IntoIterator<Item = String>,
    ) -> Result<Self, matchit::InsertError> {
        let mut metrics = Self::default();
        for path in paths {
            let place = metrics.names.len();
            metrics.routes.insert(path.as_str(), place)?;
            if WAITING.iter().any(|end| path.ends_with(end)) {
                metrics.waiting.push(place);
            }
            metrics.names.push(SharedString::from_shared(path.into()));
        }
        Ok(metrics)
    }

    pub(super) fn labels<B>(&self, request: &Request<B>) -> Labels {
        let route = self.routes.at(request.uri().path()).ok().map(|found| *found.value);
        let waits = route.is_some_and(|place| self.waiting.contains(&place));
        Labels {
            method: method_label(request.method()),
            route,
            may_wait: waits && request.method() == Method::GET
                || request.headers().contains_key(PREFER),
        }
    }

    /// Records a request that was answered.
    pub(super) fn record(&self, labels: Labels, status: StatusCode, duration: Duration) {
        let key = (labels, status);
        if let Some(series) = self.series.read().get(&key) {
            return series.record(duration);
        }
        let series = self.find(labels, status);
        series.record(duration);
        self.series.write().insert(key, series);
    }

    fn find(&self, Labels { method, route, may_wait }: Labels, status: StatusCode) -> Series {
        let route = route.and_then(|place| self.names.get(place)).cloned();
        let route = route.unwrap_or(SharedString::const_str(OTHER));
        let status = status.as_str().to_owned();
        Series {
            requests: metrics::counter!(
                REQUESTS, "method" => method, "route" => route.clone(), "status" => status
            ),
            duration: (!may_wait).then(
                || metrics::histogram!(REQUEST_DURATION, "method" => method, "route" => route),
            ),
        }
    }
}

impl Series {
    fn record(&self, duration: Duration) {
        self.requests.increment(1);
        if let Some(durations) = &self.duration {
            durations.record(duration);
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _other => OTHER,
    }
}
