//! A TCP proxy that can delay and cut connections, as networks do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use super::eventually;

/// Bytes per second of a slow link.
const SLOW: u32 = 40_000;

/// What happens to connections and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes are forwarded.
    Pass,
    /// Bytes are held back. All connections stay open, and new ones are accepted.
    Freeze,
    /// Bytes of the server are held back; those of the client are forwarded.
    FreezeResponses,
    /// Bytes of the client are held back; those of the server are forwarded.
    FreezeRequests,
    /// Bytes are forwarded at [`SLOW`] bytes per second and direction.
    Slow,
    /// Connections are closed, and new ones too. Bytes that were held back are lost.
    Cut,
    /// As [`Cut`](Self::Cut), by a reset: the peers get an error instead of an end.
    Reset,
}

impl Mode {
    fn ends_connections(self) -> bool {
        matches!(self, Self::Cut | Self::Reset)
    }
}

/// Forwards connections to a port of its own to another port, on loopback.
pub struct Proxy {
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
    accepted: Arc<AtomicUsize>,
    _connections: JoinSet<()>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let mut connections = JoinSet::new();
        let modes = Arc::clone(&mode);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        connections.spawn(async move {
            let mut pipes = JoinSet::new();
            loop {
                let (near, _peer) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                if modes.borrow().ends_connections() {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                pipes.spawn(pipe(
                    near_in,
                    far_out,
                    modes.subscribe(),
                    &[Mode::Freeze, Mode::FreezeRequests],
                ));
                pipes.spawn(pipe(
                    far_in,
                    near_out,
                    modes.subscribe(),
                    &[Mode::Freeze, Mode::FreezeResponses],
                ));
            }
        });
        Self { port, mode, accepted, _connections: connections }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until clients have opened this many further connections.
    pub async fn accepts(&self, number: usize) {
        let before = self.accepted.load(Ordering::Relaxed);
        eventually(&format!("{number} connections"), || async {
            (self.accepted.load(Ordering::Relaxed) >= before + number).then_some(())
        })
        .await;
    }
}

/// Forwards the bytes of one direction, and holds them back in the modes `frozen`.
async fn pipe(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    frozen: &'static [Mode],
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ended = mode.wait_for(|mode| mode.ends_connections()) => break,
        };
        let Ok(length @ 1..) = read else { return };
        if *mode.borrow() == Mode::Slow {
            sleep(Duration::from_secs(1) * u32::try_from(length).unwrap() / SLOW).await;
        }
        if mode.wait_for(|mode| !frozen.contains(mode)).await.is_err() {
            return;
        }
        if mode.borrow().ends_connections() {
            break;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    if *mode.borrow() == Mode::Reset {
        from.as_ref().set_zero_linger().unwrap();
        // Dropping it would send an end.
        to.forget();
    }
}
