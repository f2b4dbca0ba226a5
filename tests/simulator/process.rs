//! A process of lobbyd in a simulated world: it can be killed, paused and stopped.

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use lobbyd::{
    auth::Passwords,
    bus::Bus,
    cache::CacheSync,
    clock::DatabaseClock,
    health::{Component, Health},
    relay,
    rooms::{ClientLimits, RoomService, Sip},
    store::{Admin, Database},
    tasks::{LobbyConsumer, OutboxRelay, TaskContext, TimerTask},
    traces::Traces,
};
use parking_lot::Mutex;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::world::{SimulatedBus, SimulatedStore, World};

/// Most rooms or events of a transaction. It is small, so that a few rooms fill it.
const BATCH: u32 = 4;

/// How long an event waits for its room.
pub const GRACE: Duration = Duration::from_secs(3);

/// How far ahead of the database a version may be.
const SKEW: Duration = Duration::from_mins(1);

/// After which time work counts as overdue.
const OVERDUE: Duration = Duration::from_secs(5);

/// How often a client polls.
const POLL: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Worker,
    Api,
}

pub struct Process {
    pub role: Role,
    pub health: Arc<Health>,
    pub started_at: Instant,
    stop: CancellationToken,
    gate: Arc<Mutex<Gate>>,
    task: AbortHandle,
    _tasks: JoinSet<()>,
}

/// Lets a process run, or not.
#[derive(Default)]
struct Gate {
    is_paused: bool,
    waker: Option<Waker>,
}

/// A future that makes no progress while its process is paused.
struct Pausable {
    gate: Arc<Mutex<Gate>>,
    inner: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Pausable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut gate = self.gate.lock();
            gate.waker = Some(context.waker().clone());
            if gate.is_paused {
                return Poll::Pending;
            }
        }
        self.inner.as_mut().poll(context)
    }
}

impl Process {
    pub fn start(world: &Arc<World>, role: Role) -> Self {
        let components: &[Component] = match role {
            Role::Worker => &[Component::Database, Component::Consumer, Component::Publisher],
            Role::Api => &[Component::Database, Component::Listener, Component::Publisher],
        };
        let health = Arc::new(Health::new(components, Duration::from_mins(1), OVERDUE));
        let (stop, gate) = (CancellationToken::new(), Arc::<Mutex<Gate>>::default());
        let (world, running) = (Arc::clone(world), Arc::clone(&health));
        let inner: Pin<Box<dyn Future<Output = ()> + Send>> = match role {
            Role::Worker => Box::pin(work(world, running, stop.clone())),
            Role::Api => Box::pin(serve(world, running, stop.clone())),
        };
        let mut tasks = JoinSet::new();
        let task = tasks.spawn(Pausable { gate: Arc::clone(&gate), inner });
        Self { role, health, started_at: Instant::now(), stop, gate, task, _tasks: tasks }
    }

    pub fn is_running(&self) -> bool {
        !self.task.is_finished() && !self.gate.lock().is_paused && !self.stop.is_cancelled()
    }

    pub fn kill(&self) {
        self.task.abort();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.stop.cancel();
    }

    pub fn pause(&self, is_paused: bool) {
        let mut gate = self.gate.lock();
        gate.is_paused = is_paused;
        if !is_paused && let Some(waker) = gate.waker.take() {
            waker.wake();
        }
    }
}

async fn connect(world: &Arc<World>, health: Arc<Health>) -> TaskContext {
    let store = SimulatedStore(Arc::clone(world));
    let sample = loop {
        match store.now().await {
            Ok(sample) => break sample,
            Err(_unavailable) => sleep(Duration::from_millis(200)).await,
        }
    };
    let bus: Arc<dyn Bus> = Arc::new(SimulatedBus(Arc::clone(world)));
    let database: Arc<dyn Database> = Arc::new(store);
    let clock = Arc::new(DatabaseClock::new(sample));
    TaskContext { database, bus, clock, health, traces: Traces::default() }
}

/// The tasks of `lobbyd worker`.
async fn work(world: Arc<World>, health: Arc<Health>, stop: CancellationToken) {
    let ctx = connect(&world, health).await;
    let (relay, queue) = relay::channel();
    let timers = TimerTask::new(ctx.clone(), relay.clone(), BATCH).in_runtime_time();
    let consumer = LobbyConsumer::new(ctx.clone(), timers.waker(), relay, GRACE, SKEW);
    let relay = OutboxRelay::new(ctx, queue, BATCH);
    tokio::join!(timers.run(stop.clone()), consumer.run(stop), relay.run());
}

/// The tasks of `lobbyd api` that follow the rooms, and a client that polls all of them.
async fn serve(world: Arc<World>, health: Arc<Health>, stop: CancellationToken) {
    world.state.lock().history.forget_views();
    let ctx = connect(&world, health).await;
    let (relay, queue) = relay::channel();
    let one = NonZeroU32::MIN;
    let limits = ClientLimits {
        rooms_per_user: 1,
        guests_per_room: 1,
        changes_per_minute: one,
        joins_per_minute: one,
        long_polls_per_client: 1,
        long_polls: 1,
    };
    let (database, clock) = (Arc::clone(&ctx.database), Arc::clone(&ctx.clock));
    let (passwords, sip) = (Arc::new(Passwords::new()), Sip::default());
    let service = RoomService::new(database, clock, passwords, sip, limits, relay, stop.clone());
    let (bus, health) = (Arc::clone(&ctx.bus), Arc::clone(&ctx.health));
    let sync = CacheSync::new(service.cache(), bus, health).reporting_database();
    let relay = OutboxRelay::new(ctx, queue, BATCH);
    let polling = async {
        stop.run_until_cancelled(poll(&world, &service)).await;
        drop(service);
    };
    tokio::join!(sync.run(stop.clone()), relay.run(), polling);
}

async fn poll(world: &World, service: &RoomService) {
    loop {
        let tokens: Vec<_> = world.state.lock().tables.rooms.keys().cloned().collect();
        for token in tokens {
            if let Ok(view) = service.view(&token, None).await {
                let room = &view.overview().room;
                world.state.lock().history.viewed(&token, room.version, room.lobby);
            }
        }
        sleep(POLL).await;
    }
}
