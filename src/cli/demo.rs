//! `lobbyd demo`: a stranger sees the whole chain happen, with nothing installed.
//!
//! It runs the real worker on the embedded defaults in a temporary folder, and does from outside
//! what a conversation backend would do: it makes a room, publishes a lobby change, and listens.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Args;
use lobbyd::{
    app::{App, Role},
    bus::{Bus, MemoryBus, Message, cloudevents},
    config::Config,
    domain::{
        Actor, Caller, EventId, Lobby, LobbyChange, LobbyState, ROOM_UPDATED, Room, RoomToken,
        RoomType, RoomUpdated, Version,
        commands::{CreateRoom, NewRoom},
    },
    logging::{self, LogFormat},
    store::Database,
    supervisor,
};
use serde::Deserialize;
use tokio::{
    sync::broadcast,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::say;

/// Longest wait for a step that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show the whole chain in a few seconds, in a temporary place.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many seconds the lobby lasts
    #[arg(long = "in", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(2..=60))]
    seconds: u32,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        logging::init(LogFormat::Text, "warn")?;
        let folder = tempfile::tempdir().context("temporary folder")?;
        let database = folder.path().join("demo.db");
        let mut config = Config::defaults();
        config.database.url = format!("sqlite://{}?mode=rwc", database.display()).into();
        config.ops.listen = ([127, 0, 0, 1], 0).into();
        let bus = Arc::new(MemoryBus::new());
        let app = App::with_bus(config, bus.clone())?;

        let stop = CancellationToken::new();
        let database = app.database();
        let story = async {
            let told = tokio::select! {
                told = self.tell(&bus, database.as_ref()) => told,
                () = stop.cancelled() => Ok(()),
            };
            stop.cancel();
            told
        };
        let worker = app.run(Role::Worker, lobbyd::metrics::install()?, stop.clone());
        let both = async { tokio::try_join!(story, worker) };
        tokio::select! {
            outcome = both => outcome.map(|_| ()),
            Err(error) = supervisor::on_signal(stop.clone()) => Err(error),
        }
    }

    async fn tell(&self, bus: &MemoryBus, store: &dyn Database) -> anyhow::Result<()> {
        say("lobbyd demo: a SQLite file in a temporary folder, and the in-process event bus.\n")?;
        let token = RoomToken::parse("webinar")?;
        let mut updates = bus.messages();

        create_room(store, &token).await?;
        step(store, "room", "\"Quarterly webinar\" is there, token webinar, no lobby").await?;

        let now = store.now().await?;
        let timer = DateTime::from_timestamp(now.timestamp() + i64::from(self.seconds), 0)
            .context("timer")?;
        let change = LobbyChange {
            token: token.clone(),
            lobby: Lobby { state: LobbyState::NonModerators, timer: Some(timer) },
            version: Some(Version::of(now)),
        };
        bus.publish(&[cloudevents::lobby_changed(
            &change,
            EventId::from(uuid::Uuid::now_v7()),
            now,
        )])
        .await?;
        let until = timer.to_rfc3339_opts(SecondsFormat::Secs, true);
        step(store, "event in", &format!("lobby.changed: everybody waits until {until}")).await?;

        await_room(store, &token, |room| room.lobby.scheduled() == Some(timer)).await?;
        step(store, "armed", "the row has lobby_state 1 and the lobby_timer; it is the schedule")
            .await?;

        countdown(store, timer).await?;
        let (message, update) = await_reset(&mut updates).await?;
        let heard = store.now().await?;
        let room = await_room(store, &token, |room| room.lobby == Lobby::OPEN).await?;
        step(
            store,
            "opened",
            &format!(
                "the row has lobby_state 0 and no timer, version {}",
                room.version.milliseconds()
            ),
        )
        .await?;
        let lag = (heard - timer).num_milliseconds();
        let key = &message.routing_key;
        step(store, "published", &format!("{key}, {lag} ms after the instant:")).await?;
        let pretty: serde_json::Value = serde_json::from_slice(&message.body)?;
        say(&format!("\n{}\n", serde_json::to_string_pretty(&pretty)?))?;
        check(&update, timer)?;
        say(HOW_TO_GO_ON)
    }
}

const HOW_TO_GO_ON: &str = "\
Everybody is in. Nothing was installed, and the temporary folder is gone.

How to go on, in a checkout:
  make test                          the whole chain on RabbitMQ, PostgreSQL and MariaDB
  cargo install --locked --path .    puts lobbyd on your path
Then:
  lobbyd run                         the same daemon, on a SQLite file in this folder
  lobbyd --help                      all commands, and how to connect a broker and a database
  lobbyd config check                the configuration that is in force";

/// Creates the room as soon as the worker has created the tables.
async fn create_room(store: &dyn Database, token: &RoomToken) -> anyhow::Result<()> {
    let owner = Caller {
        actor: Actor::user("alice"),
        display_name: "Alice".to_owned(),
        may_enable_sip: false,
    };
    let request = CreateRoom::new(RoomType::Group, "Quarterly webinar");
    let begin = Instant::now();
    loop {
        let created = async {
            let now = store.now().await?;
            let new = NewRoom::of(&request, now)?;
            store.create(token, &owner, &new, now).await?;
            anyhow::Ok(())
        };
        match created.await {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_no_table_yet) => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn await_room(
    store: &dyn Database,
    token: &RoomToken,
    wanted: impl Fn(&Room) -> bool,
) -> anyhow::Result<Room> {
    let found = async {
        loop {
            match store.room(token).await? {
                Some(room) if wanted(&room) => return Ok(room),
                Some(_) | None => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(PATIENCE, found).await.context("the room did not change")?
}

async fn countdown(store: &dyn Database, timer: DateTime<Utc>) -> anyhow::Result<()> {
    let left = (timer - store.now().await?).num_seconds();
    for seconds in (1..=left).rev() {
        let instant = timer - TimeDelta::seconds(seconds);
        sleep((instant - store.now().await?).to_std().unwrap_or_default()).await;
        step(store, "", &format!("{seconds} …")).await?;
    }
    Ok(())
}

/// Waits for the update of the reset; the room's creation is announced as well.
async fn await_reset(
    updates: &mut broadcast::Receiver<Message>,
) -> anyhow::Result<(Message, RoomUpdated)> {
    #[derive(Deserialize)]
    struct Event {
        data: RoomUpdated,
    }
    let update = async {
        loop {
            let message = updates.recv().await.context("bus")?;
            if message.event_type != ROOM_UPDATED {
                continue;
            }
            let event: Event = serde_json::from_slice(&message.body)?;
            if event.data.due_at.is_some() {
                return Ok((message, event.data));
            }
        }
    };
    timeout(PATIENCE, update).await.context("no update was published")?
}

/// The demo shows what happened, so it checks that it did.
fn check(update: &RoomUpdated, timer: DateTime<Utc>) -> anyhow::Result<()> {
    if update.due_at != Some(timer) || update.fired_at.is_none_or(|fired| fired < timer) {
        bail!("the room was not opened at its due time: {update:?}");
    }
    Ok(())
}

/// Prints one step with the database's time, by which the room opens.
async fn step(store: &dyn Database, name: &str, text: &str) -> anyhow::Result<()> {
    let now = store.now().await?;
    say(&format!("{}  {name:<10} {text}", now.format("%H:%M:%S%.3f")))
}
