//! A websocket client of the signaling server: a user or a guest, who may join a room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::{super::eventually, backend};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a client is told the properties of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// It has joined the room, and the properties have changed.
    Room,
    /// It is a user whose list has the room.
    List,
}

#[derive(Clone)]
struct Received {
    /// Unix seconds.
    at: f64,
    message: Value,
}

/// A connection. Dropping it closes it without a `bye`.
pub struct Client {
    outgoing: mpsc::UnboundedSender<String>,
    received: Arc<Mutex<Vec<Received>>>,
    /// Ends with the connection.
    connection: JoinSet<()>,
}

impl Client {
    /// Connects as a user, or as a guest.
    pub(super) async fn connect(port: u16, backend: &str, user: Option<&str>) -> Self {
        let url = format!("ws://127.0.0.1:{port}/spreed");
        let (socket, _response) = connect_async(url).await.unwrap();
        let (outgoing, requests) = mpsc::unbounded_channel();
        let received = Arc::new(Mutex::new(Vec::new()));
        let mut connection = JoinSet::new();
        connection.spawn(exchange(socket, requests, Arc::clone(&received)));
        let client = Self { outgoing, received, connection };
        let auth =
            json!({ "url": format!("{backend}{}", backend::PATH), "params": { "userid": user } });
        let hello = client.request("hello", json!({ "version": "1.0", "auth": auth })).await;
        assert_eq!(hello["userid"], user.unwrap_or_default());
        client
    }

    pub async fn join(&self, token: &str) {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let session = format!("session-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let joined = self.request("room", json!({ "roomid": token, "sessionid": session })).await;
        assert_eq!(joined["roomid"], token);
    }

    /// Sends a request, and returns its answer.
    async fn request(&self, kind: &str, body: Value) -> Value {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let id = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
        let request = json!({ "id": id, "type": kind, kind: body });
        self.outgoing.send(request.to_string()).unwrap();
        let answer = eventually(&format!("the answer to {request}"), || async {
            let received = self.received.lock();
            received.iter().find(|it| it.message["id"] == id.as_str()).cloned()
        })
        .await;
        assert_eq!(answer.message["type"], kind, "{}", answer.message);
        answer.message[kind].clone()
    }

    /// Each properties of a room that it was told, with the time of the message.
    fn told(&self, channel: Channel, token: &str) -> Vec<(f64, Value)> {
        let received = self.received.lock();
        // The answer to the join is of the type `room`, too.
        let pushed = received.iter().filter(|it| it.message.get("id").is_none());
        let told = pushed.filter_map(|it| {
            let (is_meant, update) = match channel {
                Channel::Room => (it.message["type"] == "room", &it.message["room"]),
                Channel::List => {
                    let event = &it.message["event"];
                    let is_meant = event["target"] == "roomlist" && event["type"] == "update";
                    (is_meant, &event["update"])
                }
            };
            let is_meant = is_meant && update["roomid"] == token;
            is_meant.then(|| (it.at, update["properties"].clone()))
        });
        told.collect()
    }

    /// Each properties of a room that it was told, oldest first.
    pub fn properties(&self, channel: Channel, token: &str) -> Vec<Value> {
        self.told(channel, token).into_iter().map(|(_at, properties)| properties).collect()
    }

    /// Waits until it is told properties of a room with this value. Returns them all.
    pub async fn is_told(&self, channel: Channel, token: &str, key: &str, value: &Value) -> Value {
        eventually(&format!("{key} {value} of {token} by {channel:?}"), || async {
            let mut all = self.properties(channel, token).into_iter();
            all.find(|properties| properties[key] == *value)
        })
        .await
    }

    /// Waits until it is told that a room is open, and returns when it was told so for the first
    /// time, in Unix seconds.
    pub async fn is_let_in(&self, channel: Channel, token: &str) -> f64 {
        self.is_told_lobby(channel, token, 0).await
    }

    /// Waits until it is told this lobby state of a room, and returns when it was told so for the
    /// first time, in Unix seconds.
    pub async fn is_told_lobby(&self, channel: Channel, token: &str, state: i64) -> f64 {
        eventually(&format!("lobby state {state} of {token} by {channel:?}"), || async {
            let mut all = self.told(channel, token).into_iter();
            all.find(|(_at, properties)| properties["lobby-state"] == state).map(|(at, _)| at)
        })
        .await
    }

    /// Waits until the connection is closed.
    pub async fn is_disconnected(&mut self) {
        self.connection.join_next().await;
    }
}

/// Sends requests and notes messages until the connection ends.
async fn exchange(
    mut socket: Socket,
    mut requests: mpsc::UnboundedReceiver<String>,
    received: Arc<Mutex<Vec<Received>>>,
) {
    loop {
        tokio::select! {
            Some(request) = requests.recv() => {
                if socket.send(Message::text(request)).await.is_err() {
                    return;
                }
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { return };
                if let Message::Text(text) = message {
                    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap();
                    let message = serde_json::from_str(&text).unwrap();
                    received.lock().push(Received { at: since_1970.as_secs_f64(), message });
                }
            }
        }
    }
}
