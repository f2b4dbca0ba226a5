//! A connection that sends bytes and reads one answer, without the cost of an HTTP library.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub struct Connection {
    stream: TcpStream,
    /// What has been read.
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Connection {
    pub async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.exchange(request.as_bytes()).await
    }

    /// Sends a request, and reads its answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        loop {
            let count = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(count > 0, "hung up after {}", String::from_utf8_lossy(&self.buffer));
            if let Some(answer) = answer(&self.buffer) {
                return answer;
            }
        }
    }
}

/// The answer, once all of it is there.
fn answer(bytes: &[u8]) -> Option<Answer> {
    let (head, body) = std::str::from_utf8(bytes).ok()?.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let is_complete = body.len() >= length.map_or(0, |length| length.parse().unwrap());
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    is_complete.then(|| Answer { status, body: body.to_owned() })
}
