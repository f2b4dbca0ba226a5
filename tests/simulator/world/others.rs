//! What else a store does: little of it happens in a simulation.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lobbyd::{
    domain::{
        Actor, Attendee, Ban, Caller, ChatPage, IncomingChange, MessageQuery, Room, RoomId,
        RoomOverview, RoomToken, RoomUpdated, RoomVersion, SignalingBacklog, SignalingUpdate,
        TalkTimer, TimerKey, User, Version,
        commands::{Command, NewRoom, Resource},
    },
    store::{
        Admin, Backlog, Changed, CommandError, Created, HistoryFilter, InactiveSession, ListedRoom,
        Opening, Operations, PastReset, ResetTrial, Result, Rooms, Signaling, TalkRecords, Users,
    },
};

use super::{SimulatedStore, tables::RoomRow};

/// Implements a trait, with methods that no simulated process calls.
macro_rules! unused {
    (
        $trait:ident { $($used:tt)* }
        $(async fn $name:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $result:ty;)*
    ) => {
        #[async_trait]
        impl $trait for SimulatedStore {
            $($used)*
            $(async fn $name(&self $(, $argument: $type)*) -> $result {
                let _ = ($(&$argument,)*);
                panic!("no simulated process calls {}", stringify!($name))
            })*
        }
    };
}

#[async_trait]
impl Admin for SimulatedStore {
    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.read(|state| state.clock.now()).await
    }

    async fn prepare_all(&self) -> Result<()> {
        Ok(())
    }

    async fn backlog(&self) -> Result<Backlog> {
        self.read(|state| {
            let closed = |row: &&RoomRow| row.room.lobby.scheduled().is_some();
            let timers = state.tables.rooms.values().filter(closed).count();
            let events = state.tables.unpublished().map(|(_id, entry)| entry.events.len()).sum();
            let [timers_pending, outbox_pending] =
                [timers, events].map(|number: usize| u64::try_from(number).unwrap());
            Backlog { timers_pending, outbox_pending }
        })
        .await
    }

    async fn unusable_timers(&self) -> Result<u64> {
        Ok(0)
    }

    fn check_commits(&self) -> Result<()> {
        Ok(())
    }

    async fn check_writable(&self) -> Result<()> {
        self.reach().await
    }

    async fn fired_since(&self, since: DateTime<Utc>) -> Result<u64> {
        self.read(|state| {
            let entries = state.tables.outbox.values().flat_map(|entry| &entry.events);
            let fired = entries.filter(|event| {
                event.created_at >= since && event.data.contains("lobby_timer_reached")
            });
            u64::try_from(fired.count()).unwrap()
        })
        .await
    }

    async fn try_urls(&self, _urls: &[&str]) -> Result<()> {
        Ok(())
    }

    fn use_urls(&self, _urls: &[&str]) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}

unused! {
Rooms {
    async fn room(&self, token: &RoomToken) -> Result<Option<Room>> {
        self.read(|state| state.tables.rooms.get(token).map(|row| row.room.clone())).await
    }

    async fn overview(&self, token: &RoomToken) -> Result<Option<RoomOverview>> {
        let room = self.room(token).await?;
        Ok(room.map(|room| RoomOverview {
            room,
            last_message: None,
            moderators: 1,
            is_single_user: false,
            one_to_one: Vec::new(),
        }))
    }

    async fn room_versions(&self, tokens: &[RoomToken]) -> Result<Vec<RoomVersion>> {
        self.read(|state| {
            let rooms = tokens.iter().filter_map(|token| state.tables.rooms.get(token));
            let version = |room: Room| {
                let Room { token, version, lobby, room_type, name, sip, .. } = room;
                RoomVersion { token, version, lobby, room_type, name, sip }
            };
            rooms.map(|row| version(row.room.clone())).collect()
        })
        .await
    }

    async fn read_since(&self, _since: i64) -> Result<Vec<(RoomId, Actor)>> {
        self.read(|_state| Vec::new()).await
    }
}

    async fn create(&self, token: &RoomToken, caller: &Caller, new: &NewRoom, now: DateTime<Utc>)
        -> Result<Option<Created>, CommandError>;
    async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Changed, CommandError>;
    async fn attendee(&self, room: RoomId, actor: &Actor) -> Result<Option<Attendee>>;
    async fn rooms_of(&self, user: &str) -> Result<Vec<RoomToken>>;
    async fn owned_rooms(&self, user: &str) -> Result<i64>;
    async fn guests(&self, room: RoomId) -> Result<i64>;
    async fn touch(&self, sessions: &[String], now: DateTime<Utc>) -> Result<()>;
    async fn inactive_since(&self, since: DateTime<Utc>, limit: u32)
        -> Result<Vec<InactiveSession>>;
    async fn participants(&self, token: &RoomToken, actor: &Actor, resource: Resource)
        -> Result<(Room, Vec<Attendee>), CommandError>;
    async fn bans(&self, token: &RoomToken, actor: &Actor) -> Result<Vec<Ban>, CommandError>;
    async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<ChatPage, CommandError>;
}

unused! {
Users {}

    async fn add_user(&self, user: &User, password_hash: &str) -> Result<bool>;
    async fn remove_user(&self, id: &str, now: DateTime<Utc>) -> Result<bool>;
    async fn set_user_password(&self, id: &str, password_hash: &str) -> Result<bool>;
    async fn user(&self, id: &str) -> Result<Option<(User, String)>>;
    async fn users_version(&self) -> Result<i64>;
    async fn client_key(&self, proposed: &str) -> Result<String>;
    async fn users(&self) -> Result<Vec<User>>;
}

unused! {
TalkRecords {}

    async fn record_talk_timers(&self, timers: &[TalkTimer]) -> Result<()>;
    async fn recorded_talk_timers(&self, limit: u32) -> Result<Vec<TalkTimer>>;
    async fn end_talk_timer(&self, timer: &TalkTimer, update: Option<&RoomUpdated>)
        -> Result<bool>;
    async fn talk_lobby_version(&self, change: &IncomingChange) -> Result<Option<Version>>;
    async fn talk_lobby_set(&self, change: &IncomingChange, update: &RoomUpdated) -> Result<()>;
}

unused! {
Signaling {}

    async fn see_signaling_servers(&self, urls: &[&str], now: DateTime<Utc>) -> Result<()>;
    async fn prune_signaling(&self, before: DateTime<Utc>, limit: u32, now: DateTime<Utc>)
        -> Result<u64>;
    async fn first_change(&self, after: &str) -> Result<Option<(String, DateTime<Utc>)>>;
    async fn pass_on_changes(&self, after: &str, limit: u32, now: DateTime<Utc>) -> Result<usize>;
    async fn claim_signaling(
        &self,
        server: &str,
        failed: bool,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<SignalingUpdate>>;
    async fn extend_signaling(
        &self,
        server: &str,
        token: &RoomToken,
        claimed_until: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<bool>;
    async fn signaling_told(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<()>;
    async fn release_signaling(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        available_at: DateTime<Utc>,
    ) -> Result<()>;
    async fn room_with_users(&self, token: &RoomToken) -> Result<Option<(Room, Vec<String>)>>;
    async fn signaling_backlog(&self, server: &str, refused: u32) -> Result<SignalingBacklog>;
}

unused! {
Operations {}

    async fn rooms_by_token(&self, tokens: &[RoomToken]) -> Result<Vec<ListedRoom>>;
    async fn newest_rooms(&self, limit: u32) -> Result<Vec<ListedRoom>>;
    async fn scheduled_rooms(&self, limit: u32) -> Result<Vec<ListedRoom>>;
    async fn count_due(&self, now: DateTime<Utc>, limit: u32) -> Result<u64>;
    async fn nearby_tokens(&self, token: &RoomToken) -> Result<Vec<RoomToken>>;
    async fn past_resets(&self, filter: HistoryFilter<'_>, limit: u32) -> Result<Vec<PastReset>>;
    async fn last_opening(&self, room: &RoomToken) -> Result<Option<Opening>>;
    async fn try_reset(&self, timer: TimerKey, now: DateTime<Utc>) -> Result<ResetTrial>;
}
