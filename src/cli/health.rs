//! `lobbyd health`: asks the running program how it is, for health checks of containers, which have
//! no other program inside.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use lobbyd::config::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Bound of the question and its answer. Engines give a health check some seconds.
const LIMIT: Duration = Duration::from_secs(2);

/// Most that is read of an answer, in bytes: a line for each part.
const LONGEST_ANSWER: u64 = 16 * 1024;

/// Arguments of `lobbyd health`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status 0 if all is well, else 1, and what is not reached on standard error. An engine that
restarts what is unhealthy should ask with --live: a restart does not bring back a broker.")]
pub(super) struct Health {
    /// Ask whether the process itself works, whatever it reaches
    #[arg(long)]
    live: bool,
}

impl Health {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let path = if self.live { "/livez" } else { "/readyz" };
        let address = reachable(config.ops.listen);
        let answer = timeout(LIMIT, ask(address, path))
            .await
            .with_context(|| format!("no answer from {address} within {LIMIT:?}"))?
            .with_context(|| format!("ops.listen: no answer from {address}"))?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_head, body)| body).trim();
        if status != "200" {
            let problems = body.lines().collect::<Vec<_>>().join("; ");
            bail!("{address} answered {status:?}: {problems}");
        }
        super::say(body)
    }
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Whoever listens on every address of this machine is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        one @ (IpAddr::V4(_) | IpAddr::V6(_)) => one,
    };
    SocketAddr::new(ip, listen.port())
}
