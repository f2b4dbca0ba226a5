//! A publisher of lobby changes that connects again after each loss.

use std::{sync::Arc, time::Duration};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

/// How long the broker may take for a confirm.
const PATIENCE: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(200);

pub struct Message {
    pub key: String,
    pub body: Vec<u8>,
    pub content_type: &'static str,
    pub id: Option<String>,
}

impl Message {
    pub fn json(key: &str, body: &serde_json::Value) -> Self {
        let body = body.to_string().into_bytes();
        Self { key: key.to_owned(), body, content_type: "application/json", id: None }
    }
}

struct Link {
    _connection: Connection,
    channel: Channel,
}

pub struct Publisher {
    url: String,
    exchange: String,
    link: Mutex<Option<Arc<Link>>>,
}

impl Publisher {
    pub fn new(url: &str, exchange: &str) -> Self {
        Self { url: url.to_owned(), exchange: exchange.to_owned(), link: Mutex::new(None) }
    }

    /// Publishes until the broker confirms.
    pub async fn publish(&self, message: &Message) {
        while !self.try_publish(message).await {
            sleep(PAUSE).await;
        }
    }

    /// Publishes once. Returns whether the broker has confirmed; otherwise it may have the message or
    /// not.
    pub async fn try_publish(&self, message: &Message) -> bool {
        let Some(link) = self.link().await else { return false };
        let confirmed = timeout(PATIENCE, self.send(&link.channel, message)).await;
        let is_confirmed = confirmed.is_ok_and(|confirmed| confirmed == Some(true));
        if !is_confirmed {
            let mut current = self.link.lock().await;
            current.take_if(|current| Arc::ptr_eq(current, &link));
        }
        is_confirmed
    }

    async fn link(&self) -> Option<Arc<Link>> {
        let mut link = self.link.lock().await;
        if link.is_none() {
            *link = timeout(PATIENCE, self.connect()).await.ok()?.map(Arc::new);
        }
        link.clone()
    }

    async fn connect(&self) -> Option<Link> {
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = connecting.await.ok()?;
        let channel = connection.create_channel().await.ok()?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
        Some(Link { _connection: connection, channel })
    }

    async fn send(&self, channel: &Channel, message: &Message) -> Option<bool> {
        let mut properties = BasicProperties::default()
            .with_content_type(message.content_type.into())
            .with_delivery_mode(2);
        if let Some(id) = &message.id {
            properties = properties.with_message_id(id.as_str().into());
        }
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = self.exchange.as_str().into();
        let key = message.key.as_str().into();
        let sending = channel.basic_publish(exchange, key, mandatory, &message.body, properties);
        Some(sending.await.ok()?.await.ok()? == Confirmation::Ack(None))
    }
}
