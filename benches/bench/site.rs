//! A worker with its database and broker, and what a herd of timers does to them.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    clock,
    limits::Curve,
    recorder::Recorder,
    rooms,
    subscriber::Subscriber,
    support::{
        cluster::TestCluster,
        daemon::Daemon,
        database::{Database, Kind},
    },
    watch::{Sample, Watch},
};

/// How often the room of a probe is read.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// Rooms per second that are prepared for a herd, and seconds that it takes besides.
const PREPARED_PER_SECOND: i64 = 50_000;
const PREPARATION: i64 = 2;

/// Seconds before the due time in which nothing is prepared.
const MARGIN: f64 = 0.2;

pub struct Site {
    pub cluster: TestCluster,
    /// The subscriber, unless the bus is in-process.
    recorder: Option<Recorder>,
    pub worker: Daemon,
}

/// How a herd of timers was worked off.
pub struct Drain {
    /// Rooms due at once, without probes.
    rooms: u64,
    /// Unix seconds.
    due: f64,
    samples: Vec<Sample>,
    pub probes: Vec<Probe>,
}

/// A single timer that falls due while a herd is worked off. All times are in seconds, its own count
/// from its own due time.
pub struct Probe {
    /// After the due time of the herd.
    pub due: f64,
    pub opened: f64,
    pub announced: f64,
}

impl Site {
    /// SQLite has the in-process bus, the other databases have RabbitMQ.
    pub async fn new(kind: Kind) -> Self {
        Self::on(match kind {
            Kind::Sqlite => TestCluster::on(Database::create(kind).await, "memory:"),
            Kind::Postgres | Kind::MariaDb => TestCluster::new(kind).await,
        })
        .await
    }

    pub async fn on(cluster: TestCluster) -> Self {
        let worker = cluster.worker().await;
        let recorder = match cluster.database.kind {
            Kind::Sqlite => None,
            Kind::Postgres | Kind::MariaDb => Some(Recorder::new(&cluster).await),
        };
        Self { cluster, recorder, worker }
    }

    pub fn database(&self) -> &Database {
        &self.cluster.database
    }

    /// Empties the queue of updates.
    pub async fn clear_queue(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.clear().await;
        }
    }

    /// Removes the queue of updates.
    pub async fn unsubscribe(self) -> (TestCluster, Daemon) {
        if let Some(recorder) = self.recorder {
            recorder.delete().await;
        }
        (self.cluster, self.worker)
    }

    /// Takes so many updates from the queue, as the worker published them.
    pub async fn take_updates(&self, number: u32) -> Vec<lapin::message::Delivery> {
        let recorder = self.recorder.as_ref().unwrap();
        recorder.take(usize::try_from(number).unwrap()).await
    }

    /// Lets so many timers fall due at once, and one more in each of `probes` seconds after that.
    pub async fn drain(&self, number: u32, probes: u32) -> Drain {
        let mut time = PREPARATION + i64::from(number) / PREPARED_PER_SECOND;
        loop {
            let due = clock::second() + time;
            self.prepare(number, due, probes).await;
            if clock::now() < due as f64 - MARGIN {
                return self.watch(number, due, probes).await;
            }
            // The worker has begun already.
            self.database().all_open().await;
            self.database().all_published().await;
            time *= 2;
        }
    }

    async fn prepare(&self, number: u32, due: i64, probes: u32) {
        let database = self.database();
        self.clear_queue().await;
        rooms::clear(database).await;
        rooms::add(database, "herd", number, &database.timestamp_sql(due)).await;
        for second in 1..=probes {
            database.insert_rooms(&probe(second), 1, due + i64::from(second)).await;
        }
        rooms::settle(database).await;
    }

    /// Watches the worker while it opens so many rooms that fall due at `due`, and the rooms of the
    /// probes.
    pub async fn watch(&self, number: u32, due: i64, probes: u32) -> Drain {
        let watch = Watch::begin(&self.worker).await;
        let due = due as f64;
        assert!(clock::now() < due, "the preparation of {number} rooms took too long");
        clock::sleep_until(due - 0.05).await;
        let all = u64::from(number + probes);
        let watching = watch.until(|sample| sample.opened.min(sample.confirmed) >= all);
        let (samples, probes) = tokio::join!(watching, self.watch_probes(due, probes));
        assert_eq!(self.database().closed_rooms().await, 0);
        Drain { rooms: u64::from(number), due, samples, probes }
    }

    async fn watch_probes(&self, due: f64, number: u32) -> Vec<Probe> {
        if number == 0 {
            return Vec::new();
        }
        let tokens: Vec<String> =
            (1..=number).map(|second| format!("{}1", probe(second))).collect();
        let mut subscriber = Subscriber::new(&self.cluster, &tokens).await;
        let opened = join_all(
            (1..).zip(&tokens).map(|(second, token)| self.opened(token, due + f64::from(second))),
        );
        let announced = async {
            let mut announced = HashMap::new();
            while announced.len() < tokens.len() {
                let update = subscriber.next().await;
                announced.insert(update.token, update.at);
            }
            announced
        };
        let (opened, announced) = tokio::join!(opened, announced);
        let probes = (1..).zip(&tokens).zip(opened);
        probes
            .map(|((second, token), opened)| {
                let after = f64::from(second);
                Probe { due: after, opened, announced: announced[token] - due - after }
            })
            .collect()
    }

    /// Seconds from its due time until the room is open.
    async fn opened(&self, token: &str, due: f64) -> f64 {
        clock::sleep_until(due).await;
        while self.database().lobby_state(token).await != 0 {
            sleep(PROBE_INTERVAL).await;
        }
        clock::now() - due
    }
}

/// The prefix of the room that falls due in this second after the herd.
fn probe(second: u32) -> String {
    format!("probe{second}x")
}

impl Drain {
    /// Seconds from the due time until all rooms of the herd are open.
    pub fn last_open(&self) -> f64 {
        self.first(|sample| sample.opened >= self.rooms + self.probes_due_by(sample.at))
    }

    /// Seconds from the due time until all updates of the herd are confirmed.
    pub fn last_confirm(&self) -> f64 {
        self.first(|sample| sample.confirmed >= self.rooms + self.probes_due_by(sample.at))
    }

    pub fn opened_per_second(&self) -> f64 {
        self.rooms as f64 / self.last_open()
    }

    pub fn opened(&self) -> Curve {
        self.curve(|sample| sample.opened)
    }

    pub fn confirmed(&self) -> Curve {
        self.curve(|sample| sample.confirmed)
    }

    /// The probes that fell due while rooms of the herd were still closed, and those that fell due
    /// afterwards while updates were still unconfirmed.
    pub fn probes_by_phase(&self) -> [Vec<&Probe>; 2] {
        let opening = self.last_open();
        let draining = self.probes.iter().filter(|probe| probe.due < self.last_confirm());
        let (early, late) = draining.partition(|probe| probe.due < opening);
        [early, late]
    }

    fn first(&self, is_reached: impl Fn(&Sample) -> bool) -> f64 {
        self.samples.iter().find(|sample| is_reached(sample)).unwrap().at - self.due
    }

    fn probes_due_by(&self, at: f64) -> u64 {
        self.probes.iter().filter(|probe| self.due + probe.due <= at).count() as u64
    }

    fn curve(&self, count: impl Fn(&Sample) -> u64) -> Curve {
        self.samples.iter().map(|sample| (sample.at - self.due, count(sample) as f64)).collect()
    }
}
