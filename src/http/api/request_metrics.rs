//! Counts requests, and measures how long they take, by route.
//!
//! This stands outside of the router, so that every request is counted, whatever stops it, and finds
//! its route by itself. Clients can invent methods and paths, and each value of a label takes memory
//! forever: what has no route is counted as "other".

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode};
use metrics::{Counter, Histogram, SharedString};
use parking_lot::RwLock;

use super::etag;
use crate::metrics::{REQUEST_DURATION, REQUESTS};

const OTHER: &str = "other";

#[derive(Default)]
pub(super) struct RequestMetrics {
    routes: matchit::Router<SharedString>,
    /// To find a series by its labels costs as much as the rest of a poll's way through the
    /// middleware, so they are kept.
    series: RwLock<HashMap<(&'static str, SharedString, StatusCode), Series>>,
}

/// What a request is counted as.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) method: &'static str,
    route: SharedString,
    /// Whether it may wait for a change, so that its duration says nothing about the server.
    may_wait: bool,
}

struct Series {
    requests: Counter,
    duration: Histogram,
}

impl RequestMetrics {
    /// For these paths, in the notation of the router.
    pub(super) fn of(
        paths: impl IntoIterator<Item = String>,
    ) -> Result<Self, matchit::InsertError> {
        let mut routes = matchit::Router::new();
        for path in paths {
            let route = SharedString::from_shared(path.as_str().into());
            routes.insert(path, route)?;
        }
        Ok(Self { routes, series: RwLock::default() })
    }

    pub(super) fn labels<B>(&self, request: &Request<B>) -> Labels {
        let route = self.routes.at(request.uri().path());
        Labels {
            method: method_label(request.method()),
            route: route.map_or(SharedString::const_str(OTHER), |found| found.value.clone()),
            may_wait: etag::may_wait(request),
        }
    }

    /// Records a request that was answered.
    pub(super) fn record(&self, labels: Labels, status: StatusCode, duration: Duration) {
        let Labels { method, route, may_wait } = labels;
        let key = (method, route, status);
        if let Some(series) = self.series.read().get(&key) {
            return series.record(may_wait, duration);
        }
        let series = Series::new(&key);
        series.record(may_wait, duration);
        self.series.write().insert(key, series);
    }
}

impl Series {
    fn new((method, route, status): &(&'static str, SharedString, StatusCode)) -> Self {
        let (method, route, status) = (*method, route.clone(), status.as_str().to_owned());
        let requests = metrics::counter!(
            REQUESTS, "method" => method, "route" => route.clone(), "status" => status
        );
        let duration = metrics::histogram!(REQUEST_DURATION, "method" => method, "route" => route);
        Self { requests, duration }
    }

    fn record(&self, may_wait: bool, duration: Duration) {
        self.requests.increment(1);
        if !may_wait {
            self.duration.record(duration);
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
