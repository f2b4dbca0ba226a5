//! The nodes of the broker, and which of them a connection is made to.
//!
//! The URLs, and the addresses of their names, are tried in turn, each for a limited time: a node that
//! is gone swallows packets, and a frozen one accepts connections and never answers. The next
//! connection begins with the node that has worked last. When one connection had to go to another
//! node, the others follow: some of them would notice a frozen node only after its heartbeats.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::runtime::default_runtime;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{HEARTBEAT, broker};
use crate::backoff::RefusalGate;
use crate::bus::{BusError, Result};

/// Bound of all attempts of one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the attempt at one node, if there are others.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// The first bytes of a client: AMQP 0-9-1.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The URLs of a broker. Connections watch them for a change.
pub(super) type Uris = Arc<[AMQPUri]>;

pub(super) struct Nodes {
    uris: watch::Sender<Uris>,
    /// The node that has worked last.
    preferred: Mutex<Option<SocketAddr>>,
    /// The node of the last connection.
    in_use: Mutex<Option<SocketAddr>>,
    are_several: AtomicBool,
    refusals: RefusalGate,
    /// The nodes that did not answer the last attempt, or did not do their work: they come last.
    silent: Mutex<HashSet<SocketAddr>>,
}

/// A new connection, and a watch of the URLs: it changes when the connection has to be replaced.
pub(super) type Connected = (Connection, watch::Receiver<Uris>);

struct Node {
    uri: AMQPUri,
    address: SocketAddr,
}

impl Nodes {
    pub(super) fn new(uris: Uris) -> Self {
        Self {
            uris: watch::Sender::new(uris),
            preferred: Mutex::default(),
            in_use: Mutex::default(),
            are_several: AtomicBool::new(false),
            refusals: RefusalGate::default(),
            silent: Mutex::default(),
        }
    }

    /// Whether there is another node to go to.
    pub(super) fn are_several(&self) -> bool {
        self.are_several.load(Ordering::Relaxed)
    }

    /// Connects to the nodes of these URLs from now on.
    pub(super) fn replace(&self, uris: Uris) {
        *self.preferred.lock() = None;
        *self.in_use.lock() = None;
        self.refusals.reset();
        self.uris.send_replace(uris);
    }

    /// Connects to the first node that answers. The error is that of the last one.
    pub(super) async fn connect(&self, name: &str, frame_max: Option<u32>) -> Result<Connected> {
        if let Some(reason) = self.refusals.check() {
            return Err(BusError::LoginRefused(reason));
        }
        let mut watched = self.uris.subscribe();
        let uris = Arc::clone(&watched.borrow_and_update());
        let connection = match self.connect_to(&uris, name, frame_max).await {
            Ok(connection) => connection,
            Err(BusError::LoginRefused(reason)) => {
                if self.refusals.refused(&reason) {
                    tracing::warn!(error = reason, "broker still refuses the login");
                }
                return Err(BusError::LoginRefused(reason));
            }
            Err(error) => return Err(error),
        };
        self.refusals.reset();
        self.follow();
        if Arc::ptr_eq(&uris, &watched.borrow()) {
            watched.mark_unchanged();
        }
        Ok((connection, watched))
    }

    /// Tries the node in use last: it was connected, and did not do its work.
    pub(super) fn distrust(&self) {
        if let Some(node) = self.preferred.lock().take() {
            self.silent.lock().insert(node);
        }
    }

    /// Has the other connections go to the node that has just worked, if it is another one.
    fn follow(&self) {
        let Some(node) = *self.preferred.lock() else { return };
        let before = self.in_use.lock().replace(node);
        if before.is_some_and(|before| before != node) {
            tracing::info!(server = %node, "broker node chosen");
            self.uris.send_modify(|_same| {});
        }
    }

    /// Connects to a node of other URLs.
    pub(super) async fn connect_to(
        &self,
        uris: &[AMQPUri],
        name: &str,
        frame_max: Option<u32>,
    ) -> Result<Connection> {
        let connecting = self.connect_to_any(uris, name, frame_max);
        timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_elapsed| Err(timed_out()))
    }

    async fn connect_to_any(
        &self,
        uris: &[AMQPUri],
        name: &str,
        frame_max: Option<u32>,
    ) -> Result<Connection> {
        let mut failure = None;
        let mut nodes = Vec::new();
        for found in join_all(uris.iter().map(look_up)).await {
            match found {
                Ok(found) => nodes.extend(found),
                Err(error) => failure = Some(error),
            }
        }
        self.are_several.store(nodes.len() > 1, Ordering::Relaxed);
        let preferred = *self.preferred.lock();
        {
            let silent = self.silent.lock();
            nodes.sort_by_key(|node| {
                (Some(node.address) != preferred, silent.contains(&node.address))
            });
        }
        let limit = if nodes.len() == 1 { CONNECT_TIMEOUT } else { NODE_TIMEOUT };
        for node in nodes {
            let Node { mut uri, address } = node;
            if let Some(frame_max) = frame_max {
                uri.query.frame_max.get_or_insert(frame_max);
            }
            match self.connect_to_node(uri, address, name, limit).await {
                Ok(connection) => {
                    *self.preferred.lock() = Some(address);
                    return Ok(connection);
                }
                Err(error) => failure = Some(error),
            }
            let mut preferred = self.preferred.lock();
            if *preferred == Some(address) {
                *preferred = None;
            }
        }
        Err(failure.unwrap_or_else(timed_out))
    }

    async fn connect_to_node(
        &self,
        uri: AMQPUri,
        address: SocketAddr,
        name: &str,
        limit: Duration,
    ) -> Result<Connection> {
        let connecting = async {
            // Behind TLS there is no such plain probe.
            let is_silent = self.silent.lock().contains(&address);
            if is_silent && uri.scheme == AMQPScheme::AMQP {
                probe_handshake(address)
                    .await
                    .map_err(|error| BusError::Broker(Box::new(error)))?;
            }
            let properties = ConnectionProperties::default().with_connection_name(name.into());
            let runtime = default_runtime().map_err(broker)?;
            let connect = async move |uri: AMQPUri, runtime| {
                let stream = AsyncTcpStream::connect(&runtime, address).await?;
                Ok(match uri.scheme {
                    AMQPScheme::AMQP => stream,
                    AMQPScheme::AMQPS => {
                        let config = OwnedTLSConfig::default();
                        stream.into_tls(&uri.authority.host, config.as_ref()).await?
                    }
                })
            };
            Connection::connector(uri, runtime, connect, properties).await.map_err(login)
        };
        let mut attempt = Attempt { silent: &self.silent, address, is_answered: false };
        match timeout(limit, connecting).await {
            Ok(connected) => {
                attempt.is_answered = true;
                connected
            }
            Err(_elapsed) => Err(timed_out()),
        }
    }
}

/// An attempt at a node. Dropped, it records whether the node has answered: the caller may give up
/// first.
struct Attempt<'a> {
    silent: &'a Mutex<HashSet<SocketAddr>>,
    address: SocketAddr,
    is_answered: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut silent = self.silent.lock();
        if self.is_answered {
            silent.remove(&self.address);
        } else {
            silent.insert(self.address);
        }
    }
}

/// An error of a new connection.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enumeration is not exhaustive")]
fn login(error: lapin::Error) -> BusError {
    let is_refusal = match error.kind() {
        ErrorKind::ProtocolError(cause) => matches!(
            cause.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
        ),
        _ => false,
    };
    if is_refusal { BusError::LoginRefused(error.to_string()) } else { broker(error) }
}

/// The nodes that a URL names.
async fn look_up(uri: &AMQPUri) -> Result<Vec<Node>> {
    let authority = &uri.authority;
    let host = authority.host.trim_matches(['[', ']']);
    let found = timeout(NODE_TIMEOUT, lookup_host((host, authority.port))).await;
    let found =
        found.map_err(|_elapsed| BusError::TimedOut("have its name resolved", NODE_TIMEOUT))?;
    let found = found.map_err(|error| BusError::Broker(Box::new(error)))?;
    let node = |address| Node { uri: uri.clone(), address };
    Ok(found.map(node).collect())
}

/// Waits until the peer answers the protocol header. lapin keeps the thread and socket of an
/// abandoned attempt until the peer answers, so a silent peer is first probed without lapin.
async fn probe_handshake(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(PROTOCOL_HEADER).await?;
    stream.read_u8().await?;
    Ok(())
}

/// Reads the URLs of a broker.
pub(super) fn parse(urls: &[&str]) -> Result<Uris> {
    let parsed: Uris = urls.iter().map(|url| parse_one(url)).collect::<Result<_>>()?;
    // In another virtual host, no event would arrive, and nothing would fail.
    let vhosts: HashSet<&str> = parsed.iter().map(|uri| uri.vhost.as_str()).collect();
    if vhosts.len() > 1 {
        return Err(BusError::Url("expected the same virtual host in all URLs".to_owned()));
    }
    Ok(parsed)
}

fn parse_one(url: &str) -> Result<AMQPUri> {
    // The parser's message may repeat the URL with its password.
    let expected =
        |_message| BusError::Url("expected amqp://user:password@host:port/vhost".to_owned());
    let mut uri: AMQPUri = url.parse().map_err(expected)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(uri)
}

fn timed_out() -> BusError {
    BusError::TimedOut("accept a connection", CONNECT_TIMEOUT)
}
