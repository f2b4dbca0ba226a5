//! Exchanges, queues and bindings, in one place.

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use super::batch::soft_error;
use super::{BusOptions, Result, answered};

/// Binding of the queue of lobby changes.
const LOBBY_CHANGES: &str = "lobby.changed.#";

/// Binding of the listeners' queues, and of the exchange for subscribers.
const ROOM_UPDATES: &str = "room.updated.#";

/// Milliseconds that an event stays in the retry queue.
const RETRY_DELAY: i32 = 1000;

/// More deliveries of a dead letter than there will be: each read is one, and RabbitMQ 4 would drop
/// it after twenty.
const DEAD_LETTER_DELIVERIES: i32 = 1_000_000;

/// Declares everything. What exists stays as it is. How often the broker delivers an event is left to
/// a policy, which an operator can change; the other arguments are those without which events would be
/// lost. Returns what exists with other arguments: it is used as it is.
pub(super) async fn declare(connection: &Connection, options: &BusOptions) -> Result<Vec<String>> {
    let mut different = Vec::new();
    // A refused declaration closes its channel, so it is not the one that goes on to work.
    let mut channel = answered("open a channel", connection.create_channel()).await?;
    for (exchange, kind) in [
        (&options.exchange, ExchangeKind::Topic),
        // All that is bound there wants every update. With topics, each would cost the broker a
        // quarter more.
        (&options.updates_exchange, ExchangeKind::Fanout),
    ] {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = exchange.as_str().into();
        let declaring = channel.exchange_declare(name, kind, durable, FieldTable::default());
        let declared = answered("declare an exchange", declaring).await;
        if is_different(declared)? {
            different.push(exchange.clone());
            channel = answered("open a channel", connection.create_channel()).await?;
        }
    }
    let subscribers = channel.exchange_bind(
        options.exchange.as_str().into(),
        options.updates_exchange.as_str().into(),
        ROOM_UPDATES.into(),
        ExchangeBindOptions::default(),
        FieldTable::default(),
    );
    answered("bind the exchange of subscribers", subscribers).await?;
    for (queue, arguments) in [
        (&options.dead_letter_queue, dead_letter_arguments()),
        (&options.retry_queue, retry_arguments(options)),
        (&options.queue, dead_lettering_to(&options.dead_letter_queue)),
    ] {
        let quorum = with(arguments, "x-queue-type", text("quorum"));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declaring = channel.queue_declare(queue.as_str().into(), durable, quorum);
        let declared = answered("declare a queue", declaring).await.map(drop);
        if is_different(declared)? {
            different.push(queue.clone());
            channel = answered("open a channel", connection.create_channel()).await?;
        }
    }
    bind(&channel, &options.queue, &options.exchange, LOBBY_CHANGES).await?;
    answered("close a channel", channel.close(super::REPLY_SUCCESS, "declared".into())).await?;
    Ok(different)
}

/// Whether a declaration failed because of what exists.
fn is_different(declared: Result<()>) -> Result<bool> {
    match declared {
        Ok(()) => Ok(false),
        Err(error) => match soft_error(&error) {
            Some((AMQPSoftError::PRECONDITIONFAILED, _reason)) => Ok(true),
            Some(_) | None => Err(error),
        },
    }
}

fn dead_letter_arguments() -> FieldTable {
    let limit = AMQPValue::LongInt(DEAD_LETTER_DELIVERIES);
    with(FieldTable::default(), "x-delivery-limit", limit)
}

/// Events go back to their queue when they have waited.
fn retry_arguments(options: &BusOptions) -> FieldTable {
    let arguments = dead_lettering_to(&options.queue);
    with(arguments, "x-message-ttl", AMQPValue::LongInt(RETRY_DELAY))
}

fn dead_lettering_to(queue: &str) -> FieldTable {
    let arguments = FieldTable::default();
    let arguments = with(arguments, "x-dead-letter-exchange", text(""));
    let arguments = with(arguments, "x-dead-letter-routing-key", text(queue));
    // With the default, at-most-once, a broker that fails while it moves an event loses it. The
    // overflow setting is what this one requires.
    let arguments = with(arguments, "x-dead-letter-strategy", text("at-least-once"));
    with(arguments, "x-overflow", text("reject-publish"))
}

/// Declares a queue that receives every room update, and returns its name. It is deleted with the
/// connection. Only lobbyd publishes to its exchange, so that no other program can reach the API.
pub(super) async fn declare_listener(channel: &Channel, options: &BusOptions) -> Result<String> {
    // Under the prefix that the permissions of a first installation cover.
    let name = format!("{}.api.{}", options.updates_exchange, uuid::Uuid::new_v4());
    let own = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(name.as_str().into(), own, FieldTable::default());
    answered("declare a queue to listen", declaring).await?;
    bind(channel, &name, &options.updates_exchange, ROOM_UPDATES).await?;
    Ok(name)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<()> {
    let binding = channel.queue_bind(
        queue.into(),
        exchange.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    answered("bind a queue", binding).await
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn with(mut arguments: FieldTable, name: &str, value: AMQPValue) -> FieldTable {
    arguments.insert(name.into(), value);
    arguments
}
