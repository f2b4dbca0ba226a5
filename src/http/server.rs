//! An HTTP/1 server on which slow or hostile clients have little effect.
//!
//! axum's own `serve` waits for the header of a request forever, so connections are accepted here,
//! with limits on their number, on how many one address may hold, and on the time for headers and
//! responses. At a limit, the connection that has been idle for longest makes room for a new one, or one
//! that accepts a response slowly. It serves any service, that of [`api`](super::api) and that of
//! [`ops`](super::ops), and knows nothing about requests.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rlimit::{Resource, getrlimit, setrlimit};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::connections::{Connections, Limits, Slot};
use super::sending::{GuardedBody, Tracked};

/// Time in which a client has to accept more of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Milliseconds after which a connection is closed whose client acknowledges nothing: the network would
/// otherwise keep a client that has vanished for a quarter of an hour.
#[cfg(target_os = "linux")]
const LOST_PEER_TIMEOUT: u32 = 45_000;

/// Bytes of responses that the system takes before it can send them. By default it takes half a megabyte,
/// and a client that reads slowly would be told what has long been out of date. What is on the way
/// to the client is not limited, so a fast one gets large responses as fast as without it.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 16 * 1024;

/// Largest header of a request, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// Delay after a connection could not be accepted, for example for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Time for the requests in progress when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Descriptors beyond the limit that the program sets itself, below the hard limit. Without them, no
/// probe could be answered when all others are taken.
pub const PROBE_FILES: u64 = 8;

/// Address of the client, added to each request of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Marks a response whose body waits for changes. Its connection is as busy as that of a request that
/// waits, and does not make room for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingBody;

/// Answers requests by `service` on `listener` until `stop`; those in progress may then take a
/// moment longer. A connection is closed if no header of a request arrives within `header_timeout`,
/// also while it is idle.
pub(super) async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    header_timeout: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let uses_reserve = limits.uses_reserve;
    let connections = Connections::new(limits);
    let mut tasks = JoinSet::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(MAX_HEADER);
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let was_failing = std::mem::replace(&mut is_failing, accepted.is_err());
        if let Err(error) = &accepted
            && !was_failing
        {
            tracing::warn!(%error, "connections cannot be accepted");
        }
        let accepted = match accepted {
            Err(_no_descriptor) if uses_reserve => accept_beyond_limit(&listener),
            accepted => accepted.map(Some),
        };
        let Ok(accepted) = accepted else {
            connections.make_room();
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        let Some((stream, peer)) = accepted else { continue };
        let address = peer.ip().to_canonical();
        // A refused connection is closed without a response, which costs least.
        if let Some(slot) = connections.admit(address) {
            tasks.spawn(serve_connection(
                server.clone(),
                stream,
                service.clone(),
                slot,
                stop.clone(),
            ));
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::debug!("long polls were cut off at shutdown");
    }
    Ok(())
}

/// Accepts a connection although all descriptors up to the limit are taken: with one of those beyond
/// it, see [`PROBE_FILES`]. `None` if no client waits.
fn accept_beyond_limit(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    let (limit, hard) = getrlimit(Resource::NOFILE)?;
    setrlimit(Resource::NOFILE, hard, hard)?;
    let accepted = listener.accept().now_or_never();
    setrlimit(Resource::NOFILE, limit, hard)?;
    accepted.transpose()
}

async fn serve_connection<S>(
    server: http1::Builder,
    stream: TcpStream,
    service: S,
    slot: Slot,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    // Responses are sent at once; without this option, small ones are delayed.
    stream.set_nodelay(true).ok();
    #[cfg(target_os = "linux")]
    {
        rustix::net::sockopt::set_tcp_user_timeout(&stream, LOST_PEER_TIMEOUT).ok();
        SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT).ok();
    }
    let activity = slot.activity();
    let peer = Peer(slot.address());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (busy, response) = (activity.begin(), service.clone().call(request));
        async move {
            let Ok(response) = response.await;
            if response.extensions().get::<WaitingBody>().is_none() {
                busy.answered();
            }
            Ok::<_, Infallible>(response.map(|body| GuardedBody::new(body, busy)))
        }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let stream = Tracked::new(Box::pin(stream), slot.activity());
    let connection = server.serve_connection(TokioIo::new(stream), service);
    // Boxed, because a future that a task takes and pins has its place twice.
    let mut connection = Box::pin(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = slot.closed() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection failed");
    }
}
