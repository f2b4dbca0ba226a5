//! Exchange, queues and bindings, in one place.

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use super::{BusOptions, Result, answered};

/// Deliveries after which the broker itself dead-letters an event. Each crash of a worker that held
/// the event counts, so the limit is high; events that can never be applied are dead-lettered by
/// lobbyd, at the first delivery.
const DELIVERY_LIMIT: i32 = 1000;

/// Binding of the queue of lobby changes.
const LOBBY_CHANGES: &str = "lobby.changed.#";

/// Binding of the listeners' queues.
const ROOM_UPDATES: &str = "room.updated.#";

/// Declares everything. What exists with the same arguments stays as it is.
pub(super) async fn declare(connection: &Connection, options: &BusOptions) -> Result<()> {
    // A refused declaration closes its channel, so it is not the one that goes on to work.
    let channel = answered("open a channel", connection.create_channel()).await?;
    for exchange in [&options.exchange, &options.updates_exchange] {
        answered(
            "declare an exchange",
            channel.exchange_declare(
                exchange.as_str().into(),
                ExchangeKind::Topic,
                ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() },
                FieldTable::default(),
            ),
        )
        .await?;
    }
    // Subscribers bind their queues to the exchange of both directions.
    answered(
        "bind the exchange of updates",
        channel.exchange_bind(
            options.exchange.as_str().into(),
            options.updates_exchange.as_str().into(),
            ROOM_UPDATES.into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        ),
    )
    .await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    answered(
        "declare the dead-letter queue",
        channel.queue_declare(
            options.dead_letter_queue.as_str().into(),
            durable,
            table([("x-queue-type", text("quorum"))]),
        ),
    )
    .await?;
    answered(
        "declare the queue of lobby changes",
        channel.queue_declare(
            options.queue.as_str().into(),
            durable,
            table([
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT)),
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(&options.dead_letter_queue)),
                // With the default, at-most-once, a broker that fails while it moves an event to
                // the dead letters loses it. The overflow setting is what this one requires.
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ]),
        ),
    )
    .await?;
    answered(
        "bind the queue of lobby changes",
        channel.queue_bind(
            options.queue.as_str().into(),
            options.exchange.as_str().into(),
            LOBBY_CHANGES.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        ),
    )
    .await?;
    answered("close a channel", channel.close(super::REPLY_SUCCESS, "declared".into())).await
}

/// Declares a queue that receives every room update and lobby change, and returns its name. It is
/// deleted with the connection.
pub(super) async fn declare_listener(channel: &Channel, options: &BusOptions) -> Result<String> {
    // Under the prefix that the permissions of a first installation cover.
    let name = format!("{}.api.{}", options.exchange, uuid::Uuid::new_v4());
    let own = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(name.as_str().into(), own, FieldTable::default());
    answered("declare a queue to listen", declaring).await?;
    for key in [ROOM_UPDATES, LOBBY_CHANGES] {
        let binding = channel.queue_bind(
            name.as_str().into(),
            options.exchange.as_str().into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        answered("bind the queue to listen", binding).await?;
    }
    Ok(name)
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}
