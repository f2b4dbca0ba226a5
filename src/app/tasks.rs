//! Starts the tasks of a role, once the database is there.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::talk::Talk;
use super::{App, Role};
use crate::auth::{Accounts, ClientSecrets, Passwords};
use crate::cache::CacheSync;
use crate::config::Config;
use crate::http;
use crate::http::Limits;
use crate::http::api::{ApiDependencies, Memory};
use crate::relay::{RelayHandle, RelayQueue};
use crate::rooms::{ClientLimits, RoomService, Sip};
use crate::store::Database;
use crate::supervisor::Supervisor;
use crate::tasks::housekeeping::{Housekeeping, Retention, Schedules};
use crate::tasks::{
    LobbyConsumer, OutboxRelay, SignalingTask, TalkLobbies, TaskContext, TimerTask, watch_database,
};

/// Open files that clients of the API cannot take: for database, broker and ops listener.
const RESERVED_FILES: u64 = 128;

/// The tasks, and what they share.
pub(super) struct TaskSet<'a> {
    pub(super) app: &'a App,
    pub(super) supervisor: &'a mut Supervisor,
    pub(super) ctx: TaskContext,
    pub(super) schedules: watch::Receiver<Schedules>,
    pub(super) stop: CancellationToken,
}

/// What only the tasks of the API need.
pub(super) struct Api<'a> {
    pub(super) listener: TcpListener,
    pub(super) runtime: &'a Handle,
    pub(super) clients: ClientSecrets,
}

impl TaskSet<'_> {
    /// Starts the role's tasks, and those of the API. The relay is part of each role, and ends after
    /// the tasks that hold a handle of it.
    pub(super) fn start(
        mut self,
        role: Role,
        api: Option<Api<'_>>,
        relay: RelayHandle,
        queue: RelayQueue,
    ) {
        if role.works() {
            self.start_signaling(&relay);
            self.start_worker(relay.clone());
        }
        if role == Role::Talk {
            self.start_talk_lobbies(relay.clone());
        }
        if role != Role::Api {
            self.start_housekeeping();
        }
        match api {
            Some(api) => self.start_api(role, api, relay),
            None => drop(relay),
        }
        let batch = self.app.config.timers.batch.get();
        let relay = OutboxRelay::new(self.ctx, queue, batch);
        self.supervisor.spawn("outbox relay", relay.run());
    }

    fn start_worker(&mut self, relay: RelayHandle) {
        let config = &self.app.config;
        let timers = TimerTask::new(self.ctx.clone(), relay.clone(), config.timers.batch.get());
        let (grace, skew) = (config.events.unknown_room_grace, config.events.max_clock_skew);
        let consumer = LobbyConsumer::new(self.ctx.clone(), timers.waker(), relay, grace, skew);
        self.supervisor.spawn("timer task", timers.run(self.stop.clone()));
        self.supervisor.spawn("lobby consumer", consumer.run(self.stop.clone()));
    }

    fn start_signaling(&mut self, relay: &RelayHandle) {
        let servers = self.app.signaling.clone();
        if !servers.is_empty() {
            let database = Arc::clone(&self.app.api_database);
            let TaskContext { clock, health, .. } = self.ctx.clone();
            let task = SignalingTask::new(database, clock, health, servers, relay.stored());
            self.supervisor.spawn("signaling task", task.run(self.stop.clone()));
        }
    }

    /// Without other rooms, lobby changes are those of Talk's rooms.
    fn start_talk_lobbies(&mut self, relay: RelayHandle) {
        let Some(Talk { rooms, client }) = self.app.talk.clone() else { return };
        let config = &self.app.config.events;
        let (grace, skew) = (config.unknown_room_grace, config.max_clock_skew);
        let watch = watch_database(self.ctx.clone(), self.stop.clone());
        self.supervisor.spawn("database watch", watch);
        let lobbies = TalkLobbies::new(self.ctx.clone(), rooms, client, relay, grace, skew);
        self.supervisor.spawn("Talk lobbies", lobbies.run(self.stop.clone()));
    }

    fn start_housekeeping(&mut self) {
        let config = &self.app.config;
        let retention = Retention {
            history: config.outbox.history,
            dead_after: config.outbox.dead_after,
            session: config.http.session_timeout,
            signaling: config.signaling.give_up_after,
        };
        let housekeeping = Housekeeping::new(&self.ctx, retention);
        let housekeeping = housekeeping.run(self.schedules.clone(), self.stop.clone());
        self.supervisor.spawn("housekeeping", housekeeping);
    }

    fn start_api(&mut self, role: Role, api: Api<'_>, relay: RelayHandle) {
        let Api { listener, runtime, clients } = api;
        let Config { http, sip, limits, .. } = &self.app.config;
        let memory = Memory {
            requests: limits.request_memory.get(),
            responses: limits.response_memory.get(),
        };
        let database = Arc::clone(&self.app.api_database);
        let passwords = Arc::new(Passwords::new());
        let accounts = Accounts::new(Arc::<dyn Database>::clone(&database), Arc::clone(&passwords));
        let sip = Sip {
            configured: sip.is_configured(),
            dialin_info: sip.dialin_info.clone().unwrap_or_default(),
            groups: sip.groups.clone(),
        };
        let connections = connections(http.max_connections.get());
        let limits = ClientLimits {
            rooms_per_user: limits.rooms_per_user.get(),
            guests_per_room: limits.guests_per_room.get(),
            changes_per_minute: limits.changes_per_minute,
            joins_per_minute: limits.joins_per_minute,
            long_polls_per_client: limits.long_polls_per_client.get(),
            // The others remain for requests that are answered at once.
            long_polls: connections - connections / 4,
        };
        let service = Arc::new(RoomService::new(
            database,
            Arc::clone(&self.ctx.clock),
            passwords,
            sip,
            limits,
            relay,
            self.stop.clone(),
        ));
        let (bus, health) = (Arc::clone(&self.ctx.bus), Arc::clone(&self.ctx.health));
        let mut sync = CacheSync::new(service.cache(), bus, health);
        if !role.works() {
            sync = sync.reporting_database();
        }
        let presence = service.presence();
        self.supervisor.spawn_on(runtime, "cache sync", sync.run(self.stop.clone()));
        self.supervisor.spawn_on(runtime, "presence recorder", presence.run(self.stop.clone()));
        let limits = Limits {
            connections,
            per_address: http.max_connections_per_address.get(),
            trusted: http.trusted_proxies.clone(),
            uses_reserve: false,
        };
        let (proxies, hosts) = (self.app.proxies.clone(), self.app.hosts.clone());
        let (origins, join_url) = (self.app.origins.clone(), self.app.join_url.clone());
        let accounts = Arc::new(accounts);
        let api = ApiDependencies {
            service,
            accounts,
            clients,
            proxies,
            hosts,
            origins,
            memory,
            join_url,
        };
        let serving = http::api::serve(listener, api, limits, self.stop.clone());
        self.supervisor.spawn_on(runtime, "HTTP API", serving);
    }
}

/// How many connections may be open, by the configuration and by the limit of open files.
fn connections(configured: usize) -> usize {
    let files = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _hard)| soft);
    let files = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX).max(1);
    if files < configured {
        tracing::warn!(
            configured,
            allowed = files,
            "http.max_connections exceeds the limit of open files, raise that"
        );
    }
    configured.min(files)
}
