//! A publisher that writes its own AMQP frames.
//!
//! Other clients refuse properties that RabbitMQ accepts, such as a content type that is not UTF-8.
//! It publishes messages with confirms, and does nothing else.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;

/// The largest payload of a frame.
const MAX_PAYLOAD: usize = 131_072 - 8;

/// A property of a message: its bit among the flags, and its encoded value.
pub type Property = (u16, Vec<u8>);

pub fn content_type(value: &[u8]) -> Property {
    (15, short(value))
}

pub fn headers(table: &[u8]) -> Property {
    (13, long(table))
}

pub fn message_id(value: &[u8]) -> Property {
    (7, short(value))
}

pub fn kind(value: &[u8]) -> Property {
    (5, short(value))
}

/// An entry of a table: a name, and a value with its type in front.
pub fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&short(name), value].concat()
}

/// Arrays in arrays.
pub fn nested_arrays(depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _level| [b"A".as_slice(), &long(&inner)].concat())
}

pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

pub fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

pub struct RawPublisher(TcpStream);

impl RawPublisher {
    /// Connects as guest to the default virtual host.
    pub async fn connect(port: u16) -> Self {
        let mut publisher = Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        publisher.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        let login = [&long(b""), &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")];
        publisher.call(0, (10, 11), &login.map(Vec::as_slice).concat(), None).await;
        // No further channels, frames of 128 KiB, no heartbeat.
        let tuning = [0, 1, 0, 2, 0, 0, 0, 0];
        publisher.call(0, (10, 31), &tuning, None).await;
        let host = [&short(b"/"), &short(b""), &vec![0]];
        publisher.call(0, (10, 40), &host.map(Vec::as_slice).concat(), Some((10, 41))).await;
        publisher.call(1, (20, 10), &short(b""), Some((20, 11))).await;
        publisher.call(1, (85, 10), &[0], Some((85, 11))).await;
        publisher
    }

    /// Publishes a persistent message and waits for its confirm.
    pub async fn publish(
        &mut self,
        exchange: &str,
        key: &[u8],
        properties: &[Property],
        body: &[u8],
    ) {
        let address = [&[0, 0], short(exchange.as_bytes()).as_slice(), &short(key), &[0]].concat();
        self.send(1, METHOD, &method((60, 40), &address)).await;

        let mut properties: Vec<Property> = [&[(12, vec![2])], properties].concat();
        properties.sort_by_key(|(bit, _value)| std::cmp::Reverse(*bit));
        let flags = properties.iter().fold(0_u16, |flags, (bit, _value)| flags | 1 << bit);
        let values: Vec<u8> = properties.into_iter().flat_map(|(_bit, value)| value).collect();
        let length = u64::try_from(body.len()).unwrap().to_be_bytes();
        let header = [&[0, 60, 0, 0], length.as_slice(), &flags.to_be_bytes(), &values].concat();
        self.send(1, HEADER, &header).await;
        for part in body.chunks(MAX_PAYLOAD) {
            self.send(1, BODY, part).await;
        }
        self.receive((60, 80)).await;
    }

    async fn call(
        &mut self,
        channel: u16,
        request: (u16, u16),
        arguments: &[u8],
        answer: Option<(u16, u16)>,
    ) {
        self.send(channel, METHOD, &method(request, arguments)).await;
        if let Some(answer) = answer {
            self.receive(answer).await;
        }
    }

    async fn send(&mut self, channel: u16, kind: u8, payload: &[u8]) {
        let frame = [&[kind], channel.to_be_bytes().as_slice(), &long(payload), &[END]].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    /// Waits for a method, and skips others.
    async fn receive(&mut self, expected: (u16, u16)) {
        loop {
            let mut start = [0; 7];
            self.0.read_exact(&mut start).await.unwrap();
            let length = u32::from_be_bytes([start[3], start[4], start[5], start[6]]);
            let mut payload = vec![0; usize::try_from(length).unwrap() + 1];
            self.0.read_exact(&mut payload).await.unwrap();
            let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
            let received = (number(0), number(2));
            let is_close = [(10, 50), (20, 40)].contains(&received);
            assert!(!is_close, "{}", String::from_utf8_lossy(&payload));
            if start[0] == METHOD && received == expected {
                return;
            }
        }
    }
}

fn method((class, number): (u16, u16), arguments: &[u8]) -> Vec<u8> {
    [class.to_be_bytes().as_slice(), &number.to_be_bytes(), arguments].concat()
}
