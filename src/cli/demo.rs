//! `lobbyd demo`: shows the whole chain with nothing installed.
//!
//! It runs the real program on the embedded defaults in a temporary folder, and acts as a conversation
//! backend: it creates a room, publishes a lobby change, and waits for the update. In a terminal it then
//! invites to the waiting room page, and opens the room while somebody waits there.

use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Args;
use lobbyd::app::{App, Role};
use lobbyd::auth::Passwords;
use lobbyd::bus::{Bus, MemoryBus, Message, cloudevents};
use lobbyd::config::Config;
use lobbyd::domain::commands::{CreateRoom, NewRoom};
use lobbyd::domain::{
    Actor, Caller, EventId, Lobby, LobbyState, ROOM_UPDATED, RoomToken, RoomType, RoomUpdated,
    User, Version,
};
use lobbyd::logging::LogFormat;
use lobbyd::store::Database;
use lobbyd::{logging, supervisor};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::print;

/// Port of the waiting room, unless another program has it.
const PORT: u16 = 8080;

/// Seconds for which a guest sees the countdown.
const GUEST_WAITS: i64 = 20;

/// Time between two looks at the room while guests may come.
const LOOK: Duration = Duration::from_millis(200);

/// With which the moderator logs in. The page is reachable from this machine only.
const PASSWORD: &str = "demo";

/// Longest wait for a step that takes milliseconds. It only decides how soon a fault ends the demo, so it
/// leaves room for a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Seconds until the timer of the lobby is due
    #[arg(long = "in", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(2..=60))]
    seconds: u32,
    /// End when the room has opened, as without a terminal
    #[arg(long)]
    once: bool,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        logging::init(LogFormat::Text, "warn")?;
        let folder = tempfile::tempdir().context("temporary folder")?;
        let database = folder.path().join("demo.db");
        let mut config = Config::defaults();
        config.database.url = format!("sqlite://{}?mode=rwc", database.display()).into();
        config.ops.listen = ([127, 0, 0, 1], 0).into();
        let is_watched = !self.once && io::stdout().is_terminal();
        let page = if is_watched { Some(free_address()?) } else { None };
        config.http.listen = page.unwrap_or(config.http.listen);
        let bus = Arc::new(MemoryBus::new());
        let role = if is_watched { Role::Both } else { Role::Worker };
        let app = App::with_bus(config, role, bus.clone())?;

        let stop = CancellationToken::new();
        let database = app.database();
        let demo = async {
            let shown = tokio::select! {
                shown = self.show(&bus, database.as_ref(), page) => shown,
                () = stop.cancelled() => Ok(()),
            };
            stop.cancel();
            shown
        };
        let worker = app.run(lobbyd::metrics::install()?, stop.clone());
        let both = async { tokio::try_join!(demo, worker) };
        tokio::select! {
            outcome = both => outcome.map(|_| ()),
            Err(error) = supervisor::on_signal(stop.clone()) => Err(error),
        }
    }

    async fn show(
        &self,
        bus: &MemoryBus,
        store: &dyn Database,
        page: Option<SocketAddr>,
    ) -> anyhow::Result<()> {
        print("lobbyd demo: a SQLite file in a temporary folder, and the in-process event bus.\n")?;
        let token = RoomToken::parse("webinar")?;

        create_room(store, &token).await?;
        step(store, "room", "\"Quarterly webinar\" created, token webinar, no lobby").await?;

        let timer = time_in(store, i64::from(self.seconds)).await?;
        let resets = Updates(bus.messages());
        let change = close(bus, store, &token, Some(timer)).await?;
        let until = timer.to_rfc3339_opts(SecondsFormat::Secs, true);
        step(store, "event in", &format!("lobby.changed: participants wait until {until}")).await?;

        // Where the machine is slow, the timer may have fired before this is printed.
        let version = change.version;
        let (_message, update) = change.updates.first(|update| update.version == version).await?;
        ensure!(update.lobby_timer == timer.timestamp(), "the lobby was not set: {update:?}");
        step(store, "armed", "the row has lobby_state 1 and the lobby_timer; it is the schedule")
            .await?;

        countdown(store, timer).await?;
        let (message, update) = resets.first(|update| update.due_at.is_some()).await?;
        let received_at = store.now().await?;
        let room = store.room(&token).await?.context("the room is gone")?;
        ensure!(room.lobby == Lobby::OPEN, "the room was not opened: {room:?}");
        let version = room.version.milliseconds();
        let opened = format!("the row has lobby_state 0 and no timer, version {version}");
        step(store, "opened", &opened).await?;
        let lag = (received_at - timer).num_milliseconds();
        let key = &message.routing_key;
        step(store, "published", &format!("{key}, {lag} ms after the due time:")).await?;
        let pretty: serde_json::Value = serde_json::from_slice(&message.body)?;
        print(&format!("\n{}\n", serde_json::to_string_pretty(&pretty)?))?;
        check(&update, timer)?;
        if let Some(page) = page {
            invite(bus, store, &token, page).await?;
        }
        print(NEXT_STEPS)
    }
}

/// Closes the room, and opens it while a guest waits on the page, again for each further guest. Does not
/// end by itself.
async fn invite(
    bus: &MemoryBus,
    store: &dyn Database,
    token: &RoomToken,
    page: SocketAddr,
) -> anyhow::Result<()> {
    close(bus, store, token, None).await?.applied().await?;
    print(&format!(
        "All participants are in. Now watch it as one of them: open this page, and enter a name.\n\n    \
         http://{page}/call/{token}\n\nThe room opens {GUEST_WAITS} seconds later. To moderate it, log \
         in there as alice with the password {PASSWORD}.\nCtrl-C ends the demo.\n"
    ))?;
    let room = store.room(token).await?.context("the room is gone")?.id;
    let mut known = 0;
    loop {
        let mut guests = store.guests(room).await?;
        if guests > known {
            let timer = time_in(store, GUEST_WAITS).await?;
            let change = close(bus, store, token, Some(timer)).await?;
            step(store, "waiting", &format!("a guest, until {}", timer.format("%H:%M:%S"))).await?;
            change.applied().await?;
            while store.room(token).await?.is_some_and(|room| room.lobby != Lobby::OPEN) {
                sleep(LOOK).await;
            }
            step(store, "opened", "the page says so").await?;
            // Those who came meanwhile have seen it open.
            guests = store.guests(room).await?;
        }
        known = guests;
        sleep(LOOK).await;
    }
}

/// An address of this machine for the page.
fn free_address() -> anyhow::Result<SocketAddr> {
    let usual = SocketAddr::from(([127, 0, 0, 1], PORT));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(usual).or_else(|_in_use| TcpListener::bind(any));
    listener.and_then(|listener| listener.local_addr()).context("port for the page")
}

/// A lobby change that was published.
struct Change {
    version: i64,
    updates: Updates,
}

impl Change {
    /// Waits until the room has this change, or a newer one: a moderator may change it at the same time.
    async fn applied(self) -> anyhow::Result<()> {
        let Self { version, updates } = self;
        updates.first(|update| update.version >= version).await?;
        Ok(())
    }
}

/// Publishes that participants have to wait.
async fn close(
    bus: &MemoryBus,
    store: &dyn Database,
    token: &RoomToken,
    timer: Option<DateTime<Utc>>,
) -> anyhow::Result<Change> {
    let lobby = Lobby { state: LobbyState::NonModerators, timer };
    let id = EventId::from(uuid::Uuid::now_v7());
    let room = store.room(token).await?.context("the room is gone")?;
    // A change within the millisecond of the last one would count as a duplicate.
    let version = Version::of(store.now().await?).max(room.version.next()).milliseconds();
    let time = DateTime::from_timestamp_millis(version).context("version")?;
    let updates = Updates(bus.messages());
    bus.publish(&[cloudevents::lobby_changed(token, lobby, time, id)]).await?;
    Ok(Change { version, updates })
}

/// A time of whole seconds by the database's clock.
async fn time_in(store: &dyn Database, seconds: i64) -> anyhow::Result<DateTime<Utc>> {
    let now = store.now().await?;
    DateTime::from_timestamp(now.timestamp() + seconds, 0).context("timer")
}

const NEXT_STEPS: &str = "\
All participants are in. Nothing was installed, and the temporary folder is gone.

Next steps, in a checkout:
  make test                          tests the whole chain on RabbitMQ, PostgreSQL and MariaDB
  cargo install --locked --path .    installs lobbyd
Then:
  lobbyd run                         runs the same daemon on a SQLite file in this folder
  lobbyd --help                      lists all commands; how to use a broker and a database
  lobbyd config check                prints the effective configuration";

/// Creates the room as soon as the worker has created the tables.
async fn create_room(store: &dyn Database, token: &RoomToken) -> anyhow::Result<()> {
    let owner = Caller {
        actor: Actor::user("alice"),
        client: None,
        display_name: "Alice".to_owned(),
        may_enable_sip: false,
    };
    let user = User {
        id: owner.actor.id.clone(),
        display_name: owner.display_name.clone(),
        groups: Vec::new(),
    };
    let request = CreateRoom::new(RoomType::Public, "Quarterly webinar");
    let password = Passwords::new().hash(PASSWORD).await;
    let begin = Instant::now();
    loop {
        let created = async {
            let now = store.now().await?;
            let new = NewRoom::of(&request, now)?;
            store.add_user(&user, &password).await?;
            store.create(token, &owner, &new, now).await?;
            anyhow::Ok(())
        };
        match created.await {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > STEP_TIMEOUT => return Err(error),
            Err(_no_table_yet) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// What is published about the room from a time on. Unlike the row, it shows each change, however late one
/// looks; but not in the order of the changes.
struct Updates(broadcast::Receiver<Message>);

impl Updates {
    /// Waits for an update that is wanted.
    async fn first(
        mut self,
        is_wanted: impl Fn(&RoomUpdated) -> bool,
    ) -> anyhow::Result<(Message, RoomUpdated)> {
        #[derive(Deserialize)]
        struct Event {
            data: RoomUpdated,
        }
        let update = async {
            loop {
                let message = self.0.recv().await.context("bus")?;
                if message.event_type == ROOM_UPDATED {
                    let event: Event = serde_json::from_slice(&message.body)?;
                    if is_wanted(&event.data) {
                        return Ok((message, event.data));
                    }
                }
            }
        };
        timeout(STEP_TIMEOUT, update).await.context("no update was published")?
    }
}

async fn countdown(store: &dyn Database, timer: DateTime<Utc>) -> anyhow::Result<()> {
    let remaining = (timer - store.now().await?).num_seconds();
    for seconds in (1..=remaining).rev() {
        let next = timer - TimeDelta::seconds(seconds);
        sleep((next - store.now().await?).to_std().unwrap_or_default()).await;
        step(store, "", &format!("{seconds} …")).await?;
    }
    Ok(())
}

/// Fails the demo if the reset that it shows was wrong.
fn check(update: &RoomUpdated, timer: DateTime<Utc>) -> anyhow::Result<()> {
    if update.due_at != Some(timer) || update.fired_at.is_none_or(|fired| fired < timer) {
        bail!("the room was not opened at its due time: {update:?}");
    }
    Ok(())
}

/// Prints one step with the time of the database, whose clock decides.
async fn step(store: &dyn Database, name: &str, text: &str) -> anyhow::Result<()> {
    let now = store.now().await?;
    print(&format!("{}  {name:<10} {text}", now.format("%H:%M:%S%.3f")))
}
