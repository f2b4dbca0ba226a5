//! A server that answers every request with the same 304, by the HTTP library and with the settings of
//! connections that lobbyd uses. It runs as a process of its own, as lobbyd does.

use std::{
    convert::Infallible,
    pin::pin,
    process::{Child, Command},
    time::Duration,
};

use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, ETAG, VARY},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::support::{eventually, server::free_port};

const TIMEOUT: Duration = Duration::from_secs(30);
const DIGEST: &str = "0123456789012345678901234567890123456789";

/// The server as a process. Dropping it ends the process.
pub struct Constant {
    process: Child,
    pub port: u16,
}

impl Constant {
    pub async fn start() -> Self {
        let port = free_port();
        let mut program = Command::new(std::env::current_exe().unwrap());
        let process = program.arg(format!("--serve-constant={port}")).spawn().unwrap();
        let connect = || async { TcpStream::connect(("127.0.0.1", port)).await.ok() };
        eventually("the constant server", connect).await;
        Self { process, port }
    }
}

impl Drop for Constant {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Serves until the process ends.
pub async fn serve(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).max_buf_size(16 * 1024);
    let stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _address) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(TIMEOUT));
        let connection =
            server.serve_connection(TokioIo::new(Box::pin(stream)), service_fn(not_modified));
        let stop = stop.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                result = &mut connection => drop(result),
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
        });
    }
}

async fn not_modified(_request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let response = Response::builder()
        .status(StatusCode::NOT_MODIFIED)
        .header(ETAG, format!("\"{DIGEST}\""))
        .header(VARY, "Accept")
        .header(CACHE_CONTROL, "private, no-cache")
        .header("x-nextcloud-talk-hash", DIGEST)
        .header("x-request-id", "7f1d6b6a-9a0e-4f6e-8d2e-6a0e7f1d6b6a");
    Ok(response.body(Empty::new()).unwrap())
}
