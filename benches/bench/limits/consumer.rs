//! Applying lobby changes by one statement for what has been delivered, then acknowledging them.

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Connection as AmqpConnection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};

use super::{Curve, Progress, curve};

/// Unacknowledged changes, as in lobbyd's defaults.
const PREFETCH: u16 = 512;

/// Writes what lobbyd writes for lobby changes: each room, a message of each chat and a row of the
/// outbox for all. Tokens, states, timers, versions, ids and bodies of the updates.
const APPLY: &str = "
    WITH new AS (
        SELECT * FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[],
                             $6::text[]) AS new(token, state, timer, version, id, data)
    ), changed AS (
        UPDATE lobbyd_rooms AS room
        SET lobby_state = new.state, lobby_timer = to_timestamp(new.timer),
            lobby_version = new.version
        FROM new WHERE room.token = new.token AND room.lobby_version < new.version
        RETURNING room.id AS room, room.token, new.id, new.data
    ), message AS (
        INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
        SELECT room, floor(extract(epoch FROM now())), 'guests', 'system', 'lobby_non_moderators'
        FROM changed
    )
    INSERT INTO lobbyd_outbox (id, type, token, events, data, created_at, available_at)
    SELECT min(id), 'room.updated.v1', min(token), count(*),
           concat('[', string_agg(concat('{\"id\":\"', id, '\",\"token\":\"', token, '\",\"data\":', data,
                                         '}'), ','), ']'),
           now(), now()
    FROM changed RETURNING events::bigint";

/// Applies so many changes from the queue.
pub async fn apply_changes(amqp_url: &str, queue: &str, url: &str, number: usize) -> Curve {
    let mut database = PgConnection::connect(url).await.unwrap();
    let connecting = AmqpConnection::connect(amqp_url, ConnectionProperties::default());
    let connection = connecting.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consuming = channel.basic_consume(queue.into(), "bench".into(), options, arguments);
    let mut consumer = consuming.await.unwrap();
    let mut progress = Progress::begin();
    let mut applied = 0;
    while applied < number {
        let mut set = vec![consumer.next().await.unwrap().unwrap()];
        while let Some(Some(Ok(more))) = consumer.next().now_or_never() {
            set.push(more);
        }
        apply(&mut database, &set).await;
        let tag = set.last().unwrap().delivery_tag;
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.unwrap();
        applied += set.len();
        progress.add(set.len());
    }
    connection.close(200, "".into()).await.unwrap();
    curve([progress])
}

async fn apply(database: &mut PgConnection, set: &[Delivery]) {
    let (mut tokens, mut states, mut timers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut versions, mut ids, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    for delivery in set {
        let event: Value = serde_json::from_slice(&delivery.data).unwrap();
        let change = &event["data"];
        let time = chrono::DateTime::parse_from_rfc3339(event["time"].as_str().unwrap()).unwrap();
        let version = time.timestamp_millis();
        let update = json!({
            "token": change["token"], "type": 3, "lobbyState": 1, "lobbyTimer": change["timer"],
            "sipEnabled": 0, "version": version, "reason": "lobby_non_moderators",
        });
        tokens.push(change["token"].as_str().unwrap().to_owned());
        states.push(i16::try_from(change["state"].as_i64().unwrap()).unwrap());
        timers.push(change["timer"].as_i64().unwrap());
        versions.push(version);
        ids.push(uuid::Uuid::now_v7().to_string());
        updates.push(update.to_string());
    }
    let applying = sqlx::query(APPLY)
        .bind(&tokens)
        .bind(&states)
        .bind(&timers)
        .bind(&versions)
        .bind(&ids)
        .bind(&updates);
    let applied: i64 = applying.fetch_one(database).await.unwrap().get(0);
    assert_eq!(usize::try_from(applied).unwrap(), set.len());
}
