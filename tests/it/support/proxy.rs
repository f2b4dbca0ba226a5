//! A TCP proxy that can misbehave as networks do.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They get through.
    Pass,
    /// They stop, while all connections stay open, and new ones are accepted.
    Freeze,
    /// Connections are cut, and new ones refused.
    Cut,
}

/// Forwards a port of its own to another one, on loopback.
pub struct Proxy {
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
    _connections: JoinSet<()>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let mut connections = JoinSet::new();
        let modes = Arc::clone(&mode);
        connections.spawn(async move {
            let mut pipes = JoinSet::new();
            loop {
                let (near, _peer) = listener.accept().await.unwrap();
                if *modes.borrow() == Mode::Cut {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                pipes.spawn(pipe(near_in, far_out, modes.subscribe()));
                pipes.spawn(pipe(far_in, near_out, modes.subscribe()));
            }
        });
        Self { port, mode, _connections: connections }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            cut = mode.wait_for(|&mode| mode == Mode::Cut) => return drop(cut),
        };
        let Ok(length @ 1..) = read else { return };
        if mode.wait_for(|&mode| mode != Mode::Freeze).await.is_err()
            || *mode.borrow() == Mode::Cut
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
