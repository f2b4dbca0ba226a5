//! An HTTP/1 server that a slow or hostile client costs little.
//!
//! axum's own `serve` waits for the end of a request's header for ever, so connections are
//! accepted here, with a bound on their number and on the time for headers.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

/// Time for a request's header, also for the next one on a connection that is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bound of a request's header, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// Wait after a connection could not be accepted, as when file descriptors have run out.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, to at most `connections` clients at once.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let free = Arc::new(Semaphore::new(connections));
    let mut open = JoinSet::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER);
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            permit = Arc::clone(&free).acquire_owned() => permit?,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection could not be accepted");
                    sleep(ACCEPT_WAIT).await;
                    continue;
                }
            },
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(stream), service);
        open.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended badly");
            }
            drop(permit);
        });
        while open.try_join_next().is_some() {}
    }
}
