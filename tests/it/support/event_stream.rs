//! A client of server-sent events, which reads them as the HTML standard describes.

use http_body_util::BodyExt;
use hyper::{HeaderMap, body::Incoming};
use serde_json::Value;
use tokio::time::timeout;

use super::{PATIENCE, http::Client};

/// The response to a request for events.
pub struct EventStream {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    /// What has arrived of the next block.
    buffer: Vec<u8>,
}

/// What stands between two empty lines.
#[derive(Debug, Default, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: Option<i64>,
    pub retry: Option<u64>,
    /// Null in a block that has only a comment.
    pub data: Value,
    pub is_comment: bool,
}

impl Client {
    /// Follows a room, which must be possible.
    pub async fn follow(&self, room: &str) -> EventStream {
        let stream = self.try_follow(room).await;
        assert_eq!(stream.status, 200, "{:?}", stream.headers);
        stream
    }

    pub async fn try_follow(&self, room: &str) -> EventStream {
        let path = format!("/room/{room}/events");
        let response =
            timeout(PATIENCE, self.open(&path)).await.expect("no response in time").unwrap();
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status.as_u16(), head.headers);
        EventStream { status, headers, body, buffer: Vec::new() }
    }
}

impl EventStream {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The next block; `None` at the end, or when the connection is lost.
    pub async fn block(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(parse(std::str::from_utf8(&block).unwrap()));
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("no event in time");
            let data = frame?.ok()?.into_data().unwrap();
            self.buffer.extend_from_slice(&data);
        }
    }

    /// How many bytes have arrived that were not read.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        loop {
            let block = self.block().await.expect("the stream ended");
            if !block.is_comment {
                return block;
            }
        }
    }

    /// The data of the next event, which must be about the room.
    pub async fn room(&mut self) -> Value {
        let event = self.event().await;
        assert_eq!(event.name, "room");
        event.data
    }

    /// Reads until the event with which a stream ends for good, and its end.
    pub async fn end(&mut self) {
        while self.event().await.name != "end" {}
        assert_eq!(self.block().await, None);
    }

    /// Reads until a room is as it should be, and returns the event.
    pub async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.event().await;
            if wanted(&event.data) {
                return event;
            }
        }
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event::default();
    let mut data = Vec::new();
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(':').unwrap();
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.name),
            "id" => event.id = Some(value.parse().unwrap()),
            "retry" => event.retry = Some(value.parse().unwrap()),
            "data" => data.push(value),
            "" => event.is_comment = true,
            _ => panic!("unknown field {field}"),
        }
    }
    if !data.is_empty() {
        event.data = serde_json::from_str(&data.join("\n")).unwrap();
    }
    event
}
