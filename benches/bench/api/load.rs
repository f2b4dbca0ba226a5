//! A load generator that costs little: one thread, one write and one read for each request.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    task::{JoinSet, LocalSet},
};

const CONNECTIONS: usize = 16;

/// Answers per second to this request. Each is as long as the first, and has this status.
pub async fn rate(port: u16, request: &str, status: &'static str, time: Duration) -> f64 {
    let request = request.to_owned();
    let sending = tokio::task::spawn_blocking(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, send(port, request, status, time))
    });
    sending.await.unwrap()
}

async fn send(port: u16, request: String, status: &'static str, time: Duration) -> f64 {
    let begin = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn_local(send_on_one(port, request.clone(), status, begin + time));
    }
    let answers: u32 = connections.join_all().await.into_iter().sum();
    f64::from(answers) / begin.elapsed().as_secs_f64()
}

async fn send_on_one(port: u16, request: String, status: &'static str, end: Instant) -> u32 {
    let start = format!("HTTP/1.1 {status} ");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut length = None;
    let mut answers = 0;
    while Instant::now() < end {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut received = 0;
        while length.map_or_else(|| !is_head(&buffer[..received]), |length| received < length) {
            let count = stream.read(&mut buffer[received..]).await.unwrap();
            assert!(count > 0, "hung up");
            received += count;
        }
        assert!(buffer.starts_with(start.as_bytes()));
        assert_eq!(*length.get_or_insert(received), received);
        answers += 1;
    }
    answers
}

/// Whether the bytes end a response without a body.
fn is_head(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\r\n\r\n")
}
