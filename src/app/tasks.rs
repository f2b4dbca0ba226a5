//! Starts the tasks of a role, once the database is there.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{App, Role};
use crate::auth::{Accounts, Passwords};
use crate::cache::CacheSync;
use crate::http::Limits;
use crate::http::api::ApiDependencies;
use crate::relay::RelayHandle;
use crate::rooms::{RoomService, Sip};
use crate::store::Database;
use crate::supervisor::Supervisor;
use crate::tasks::housekeeping::{Housekeeping, Retention, Schedules};
use crate::tasks::{LobbyConsumer, OutboxRelay, TaskContext, TimerTask};
use crate::{http, relay};

/// The tasks, and what they share.
pub(super) struct TaskSet<'a> {
    pub(super) app: &'a App,
    pub(super) supervisor: &'a mut Supervisor,
    pub(super) ctx: TaskContext,
    pub(super) schedules: watch::Receiver<Schedules>,
    pub(super) stop: CancellationToken,
}

impl TaskSet<'_> {
    /// Starts the role's tasks, and that of the API on its listener. The relay is part of each role,
    /// and ends after the tasks that hold a handle of it.
    pub(super) fn start(mut self, role: Role, http: Option<TcpListener>) {
        let (relay, queue) = relay::channel();
        if role.works() {
            self.start_worker(relay.clone());
        }
        if let Some(listener) = http {
            self.start_api(role, listener, relay);
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
        let retention = Retention {
            history: config.outbox.history,
            dead_after: config.outbox.dead_after,
            session: config.http.session_timeout,
        };
        let housekeeping = Housekeeping::new(&self.ctx, retention);
        let housekeeping = housekeeping.run(self.schedules.clone(), self.stop.clone());
        self.supervisor.spawn("timer task", timers.run(self.stop.clone()));
        self.supervisor.spawn("lobby consumer", consumer.run(self.stop.clone()));
        self.supervisor.spawn_fallible("housekeeping", housekeeping);
    }

    fn start_api(&mut self, role: Role, listener: TcpListener, relay: RelayHandle) {
        let (http, sip) = (&self.app.config.http, &self.app.config.sip);
        let database = Arc::clone(&self.app.api_database);
        let passwords = Arc::new(Passwords::new());
        let accounts = Accounts::new(Arc::<dyn Database>::clone(&database), Arc::clone(&passwords));
        let sip = Sip {
            configured: sip.is_configured(),
            dialin_info: sip.dialin_info.clone().unwrap_or_default(),
            groups: sip.groups.clone(),
        };
        let service = Arc::new(RoomService::new(
            database,
            Arc::clone(&self.ctx.clock),
            passwords,
            sip,
            relay,
            self.stop.clone(),
        ));
        let (bus, health) = (Arc::clone(&self.ctx.bus), Arc::clone(&self.ctx.health));
        let mut sync = CacheSync::new(service.cache(), bus, health);
        if !role.works() {
            sync = sync.reporting_database();
        }
        self.supervisor.spawn("cache sync", sync.run(self.stop.clone()));
        self.supervisor.spawn("presence recorder", service.presence().run(self.stop.clone()));
        let limits = Limits {
            connections: http.max_connections.get(),
            per_address: http.max_connections_per_address.get(),
            trusted: http.trusted_proxies.clone(),
        };
        let proxies = self.app.proxies.clone();
        let api = ApiDependencies { service, accounts: Arc::new(accounts), proxies };
        let serving = http::api::serve(listener, api, limits, self.stop.clone());
        self.supervisor.spawn_fallible("HTTP API", serving);
    }
}
