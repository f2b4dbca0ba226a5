//! An HTTP/1 server that a slow or hostile client costs little.
//!
//! axum's own `serve` waits for the end of a request's header for ever, so connections are
//! accepted here, with a bound on their number, on how many of them one address may hold, and on
//! the time for headers.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::sleep};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::auth::network;

/// Time for a request's header, also for the next one on a connection that is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time in which a client takes some more of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bound of a request's header, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// Wait after a accepting a connection failed, as when file descriptors have run out.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Time for the answers that are being given when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// How many clients may be connected.
#[derive(Debug, Clone)]
pub struct Limits {
    /// All together.
    pub connections: usize,
    /// From one address, other than this machine's own and those of trusted proxies.
    pub per_address: usize,
    /// Networks of trusted proxies.
    pub trusted: Vec<IpNet>,
}

/// Address of the peer of a connection, in each of its requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Serves `router` on `listener` until `stop`. Requests that are being answered then have a moment
/// to end.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let free = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    let mut open = JoinSet::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER);
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&free).acquire_owned() => permit?,
        };
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_WAIT).await;
                    continue;
                }
            },
        };
        // One that is refused is closed at once: there is nothing to spend on it.
        let Some(place) = addresses.enter(address, &limits) else {
            tracing::debug!(%address, "too many connections from this address");
            continue;
        };
        // Small answers are not held back for more.
        stream.set_nodelay(true).ok();
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(address));
            router.clone().call(request)
        });
        // Whoever asks for an answer and does not take it is cut off.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let connection = server.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let stop = stop.clone();
        open.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection failed");
            }
            drop((place, permit));
        });
        while open.try_join_next().is_some() {}
    }
    drop(listener);
    let farewell = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!("long polls were cut off at shutdown");
    }
    Ok(())
}

/// How many connections each address holds.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address.
struct Place {
    address: IpAddr,
    addresses: Addresses,
}

impl Addresses {
    fn enter(&self, address: IpAddr, limits: &Limits) -> Option<Place> {
        let exempt =
            address.is_loopback() || limits.trusted.iter().any(|net| net.contains(&address));
        let address = network(address);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= limits.per_address && !exempt {
            return None;
        }
        *count += 1;
        Some(Place { address, addresses: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_connections() {
        let addresses = Addresses::default();
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let limits = Limits { connections: 9, per_address: 2, trusted };
        let enter = |text: &str| addresses.enter(text.parse().unwrap(), &limits);
        let first = enter("192.0.2.1");
        let second = enter("192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        let six: Vec<_> = (1..=2).map(|host| enter(&format!("2001:db8::{host}"))).collect();
        assert!(enter("2001:db8::3").is_none(), "who has one IPv6 address has many");
        drop(six);
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        for exempt in ["127.0.0.1", "10.1.1.1"] {
            let many: Vec<_> = (0..5).map(|_| enter(exempt)).collect();
            assert!(many.iter().all(Option::is_some), "{exempt}");
        }
        drop(second);
        assert!(addresses.0.lock().unwrap().is_empty(), "places are given back");
    }
}
