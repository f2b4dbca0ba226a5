//! An HTTP/1 server on which slow or hostile clients have little effect.
//!
//! axum's own `serve` waits for the header of a request forever, so connections are accepted here,
//! with limits on their number, on how many one address may hold, and on the time for headers and
//! responses. It serves any service, that of [`api`](super::api) and that of [`ops`](super::ops),
//! and knows nothing about requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::auth::network;

/// Time for the header of a request, including the wait for it on an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time in which a client has to accept more of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest header of a request, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// Delay after a connection could not be accepted, for example for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Time for the requests in progress when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How many connections may be open.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// Maximum per client address; loopback and trusted proxies are exempt.
    pub per_address: usize,
    pub trusted: Vec<IpNet>,
}

/// Address of the client, added to each request of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Answers requests by `service` on `listener` until `stop`; those in progress may then take a
/// moment longer.
pub(super) async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<()>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let addresses = AddressCounts::default();
    let mut connections = JoinSet::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER);
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot?,
        };
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        // Closed without a response, which costs least.
        let Some(address_slot) = addresses.acquire(address, &limits) else {
            tracing::debug!(%address, "too many connections from this address");
            continue;
        };
        // Responses are sent at once; without this option, small ones are delayed.
        stream.set_nodelay(true).ok();
        let service = service.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(address));
            service.clone().call(request)
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let connection = server.serve_connection(TokioIo::new(Box::pin(stream)), service);
        // Boxed, because a future that a task takes and pins has its place twice.
        let mut connection = Box::pin(connection);
        let stop = stop.clone();
        connections.spawn(async move {
            let result = tokio::select! {
                result = &mut connection => result,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "connection failed");
            }
            drop((address_slot, slot));
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::debug!("long polls were cut off at shutdown");
    }
    Ok(())
}

/// Number of open connections per address.
#[derive(Clone, Default)]
struct AddressCounts(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// An open connection of an address; dropping it releases the slot.
struct AddressSlot {
    address: IpAddr,
    counts: AddressCounts,
}

impl AddressCounts {
    fn acquire(&self, address: IpAddr, limits: &Limits) -> Option<AddressSlot> {
        let exempt =
            address.is_loopback() || limits.trusted.iter().any(|net| net.contains(&address));
        let address = network(address);
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= limits.per_address && !exempt {
            return None;
        }
        *count += 1;
        Some(AddressSlot { address, counts: self.clone() })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_connections() {
        let addresses = AddressCounts::default();
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let limits = Limits { connections: 9, per_address: 2, trusted };
        let connect = |text: &str| addresses.acquire(text.parse().unwrap(), &limits);
        let first = connect("192.0.2.1");
        let second = connect("192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(connect("192.0.2.1").is_none());
        assert!(connect("192.0.2.2").is_some());
        let six: Vec<_> = (1..=2).map(|host| connect(&format!("2001:db8::{host}"))).collect();
        assert!(connect("2001:db8::3").is_none(), "an IPv6 network counts as one address");
        drop(six);
        drop(first);
        assert!(connect("192.0.2.1").is_some());
        for exempt in ["127.0.0.1", "10.1.1.1"] {
            let many: Vec<_> = (0..5).map(|_| connect(exempt)).collect();
            assert!(many.iter().all(Option::is_some), "{exempt}");
        }
        drop(second);
        assert!(addresses.0.lock().is_empty(), "slots are released");
    }
}
