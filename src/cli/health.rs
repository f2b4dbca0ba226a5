//! `lobbyd health`: queries the probes of the running program, for health checks of containers that
//! contain no other program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lobbyd::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bound of request and response. Container engines allow a health check some seconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Longest response that is read; it has a line for each component.
const MAX_RESPONSE_BYTES: u64 = 16 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status 0 if everything works; otherwise 1, with the reason on standard error. An engine that \
restarts unhealthy containers should use --live: a restart does not repair a broker.")]
pub(super) struct Health {
    /// Check only whether the process makes progress, not what it is connected to
    #[arg(long)]
    live: bool,
}

/// What a process answers that is not ready.
#[derive(Debug, thiserror::Error)]
#[error("{address} answered {status:?}: {problems}")]
pub(super) struct NotReady {
    address: SocketAddr,
    status: String,
    pub(super) problems: String,
}

impl Health {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        super::print(&probe(config, if self.live { "/livez" } else { "/readyz" }).await?)
    }
}

/// Whether the process at `ops.listen` is ready; otherwise what is wrong, or that none answers.
pub(super) async fn readiness(config: &Config) -> anyhow::Result<String> {
    probe(config, "/readyz").await
}

async fn probe(config: &Config, path: &str) -> anyhow::Result<String> {
    let address = reachable(config.ops.listen);
    let response = timeout(TIMEOUT, get(address, path))
        .await
        .with_context(|| format!("no answer from {address} within {TIMEOUT:?}"))?
        .with_context(|| format!("ops.listen: no answer from {address}"))?;
    let status = response.split(' ').nth(1).unwrap_or_default();
    let body = response.split_once("\r\n\r\n").map_or("", |(_head, body)| body).trim();
    if status != "200" {
        let problems = body.lines().collect::<Vec<_>>().join("; ");
        return Err(NotReady { address, status: status.to_owned(), problems }.into());
    }
    Ok(body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_string(&mut response).await?;
    Ok(response)
}

/// A program that listens on all addresses is queried on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}
