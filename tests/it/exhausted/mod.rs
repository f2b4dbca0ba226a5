//! Resources that are used up, while timers are due and events arrive: disk, connections, descriptors,
//! the right to write. Readiness names what is missing, nothing is acknowledged that is not stored,
//! and all of it is done when the resource is back, without a restart (promises P6, P7 and P10).
//!
//! `outage` has the broker without memory, `failover` a standby that becomes writable, and `lifecycle`
//! an idle API on a database that cannot be written.

mod connections;
mod descriptors;
mod disks;
mod read_only;

use std::{ops::AsyncFnOnce, process::Command};

use chrono::TimeDelta;
use rlimit::Resource;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{
    amqp,
    app::PASSWORD,
    cluster::TestCluster,
    daemon::{Daemon, add_user, program},
    database::{Database, Kind},
    eventually,
    http::{Api, Client, Response},
    server::{BROKER, Server},
};

/// Events that are sent while a resource is used up.
const EVENTS: u32 = 20;

/// Rooms that become due in each second, and seconds.
const HERD: (u32, i64) = (5, 10);

/// Longest lag of a timer on a busy machine. A wait for what somebody else does not give back takes longer.
const UNDELAYED: TimeDelta = TimeDelta::seconds(60);

/// Worker and API in one process.
struct Site {
    cluster: TestCluster,
    events: amqp::Client,
    run: Daemon,
    owner: Client,
    room: String,
    /// Rooms that have to be reset.
    rooms: u32,
}

impl Site {
    async fn new(cluster: TestCluster) -> Self {
        let run = program(&cluster.settings);
        Self::spawn(cluster, run).await
    }

    async fn spawn(cluster: TestCluster, mut run: Command) -> Self {
        let events = cluster.client().await;
        let run = Daemon::spawn(run.arg("run"));
        run.ready().await;
        add_user(&cluster.settings, "owner", PASSWORD, &[]);
        let owner = Api::new(run.http_port).user("owner", PASSWORD);
        let room = owner.room(3).await;
        Self { cluster, events, run, owner, room, rooms: 0 }
    }

    async fn set_lobby(&self, state: u32) -> Response {
        let path = format!("/room/{}/webinar/lobby", self.room);
        self.owner.put(&path, json!({ "state": state })).await
    }

    async fn execute(&self, sql: &str) {
        self.cluster.database.execute(sql).await;
    }

    /// Events in the queue, also those that the worker has and did not acknowledge.
    fn unacknowledged(&self) -> u32 {
        let report = BROKER.report(&["list_queues", "name", "messages"]);
        let mut queues = report.lines().filter_map(|line| line.split_once('\t'));
        let (_name, messages) = queues.find(|(name, _)| *name == self.cluster.queue).unwrap();
        messages.trim().parse().unwrap()
    }

    /// Inserts rooms that become due from now on, and open ones for events.
    async fn load(&mut self, what: &str) {
        let database = &self.cluster.database;
        let (now, (number, seconds)) = (database.now().await, HERD);
        for second in 0..seconds {
            database.insert_rooms(&format!("{what}{second}x"), number, now + second).await;
        }
        database.open_rooms(&format!("{what}event"), EVENTS).await;
        self.rooms += load_size();
    }

    /// Waits until the last of the rooms is due.
    async fn all_due(&self, since: i64) {
        eventually("every timer to be due", || async {
            (self.cluster.database.now().await > since + HERD.1).then_some(())
        })
        .await;
    }

    /// Has the database fail in some way, for reasons of which readiness has to name one, and recover.
    async fn survives(
        &mut self,
        what: &str,
        reasons: &[&str],
        exhaust: impl AsyncFnOnce(&Self),
        restore: impl AsyncFnOnce(&Self),
    ) {
        let since = self.cluster.database.now().await;
        self.load(what).await;
        self.cluster.database.lobby_becomes(&format!("{what}0x1"), 0).await;
        exhaust(self).await;
        let problems = eventually("the reason from /readyz", || async {
            let (status, problems) = self.run.get("/readyz?part=database").await?;
            let is_named = reasons.iter().any(|reason| problems.contains(reason));
            (status == 503 && is_named).then_some(problems)
        })
        .await;
        let prefix = format!("{what}event");
        self.cluster.close_by_events(&self.events, &prefix, EVENTS, 0..3).await;
        let refused = self.set_lobby(1).await;
        assert!(refused.status >= 500, "{refused:?}");
        self.all_due(since).await;
        let (status, _problems) = self.run.get("/readyz").await.unwrap();
        assert_eq!(status, 503);
        assert_eq!(self.run.get("/livez").await.unwrap().0, 200);
        assert_eq!(self.unacknowledged(), EVENTS);

        restore(self).await;
        let begin = Instant::now();
        self.run.ready().await;
        println!("{what}: {}, ready after {:?}", problems.trim(), begin.elapsed());
        assert_eq!(self.cluster.database.lobby_state(&self.room).await, 0);
        self.set_lobby(1).await.expect(200);
        self.set_lobby(0).await.expect(200);
        self.cluster.database.all_open().await;
    }

    /// Checks that no timer of these rooms was late.
    async fn undelayed(&self, what: &str) {
        // Rooms whose events are not applied yet are open as well.
        let lag = eventually("every reset", || async {
            let resets = self.cluster.database.resets().await.into_values();
            let resets = resets.filter(|reset| reset.token.starts_with(what));
            let lag = resets.map(|reset| reset.fired_at.unwrap() - reset.due_at.unwrap());
            let lag: Vec<TimeDelta> = lag.collect();
            (u32::try_from(lag.len()).unwrap() == load_size()).then_some(lag)
        })
        .await;
        let longest = lag.into_iter().max().unwrap();
        println!("{what}: timers at most {} ms late", longest.num_milliseconds());
        assert!(longest < UNDELAYED, "a timer of {what} was {longest} late");
    }

    async fn all_done(self) {
        self.cluster.all_done(&self.events, self.rooms).await;
    }

    /// Sets the limit of a resource for the process.
    fn limit(&self, resource: Resource, soft: u64) {
        let process = i32::try_from(self.run.process()).unwrap();
        let (mut before, mut hard) = (0, 0);
        rlimit::prlimit(process, resource, None, Some((&mut before, &mut hard))).unwrap();
        rlimit::prlimit(process, resource, Some((soft.min(hard), hard)), None).unwrap();
    }
}

/// Rooms of a load.
fn load_size() -> u32 {
    let (number, seconds) = HERD;
    number * u32::try_from(seconds).unwrap() + EVENTS
}

/// lobbyd on a server of its own, as an ordinary user.
async fn ordinary_site(kind: Kind, server: &Server) -> (Site, String) {
    let (database, url) = ordinary_user(kind, server).await;
    let mut cluster = TestCluster::on(database, &BROKER.url());
    cluster.set("DATABASE__URL", &url);
    (Site::new(cluster).await, url)
}

/// A new database, and its URL for a user without special rights.
async fn ordinary_user(kind: Kind, server: &Server) -> (Database, String) {
    let database = Database::create_on(kind, server.port).await;
    let (start, name) = database.url.rsplit_once('/').unwrap();
    let scheme = start.split_once("://").unwrap().0;
    let url = format!("{scheme}://ordinary:secret@127.0.0.1:{}/{name}", server.port);
    if kind == Kind::Postgres {
        database.execute("CREATE ROLE ordinary LOGIN PASSWORD 'secret'").await;
        database.execute("GRANT lobbyd, lobbyd_owner TO ordinary").await;
    } else {
        database.execute("CREATE USER ordinary@'127.0.0.1' IDENTIFIED BY 'secret'").await;
        database.execute(&format!("GRANT ALL ON {name}.* TO ordinary@'127.0.0.1'")).await;
    }
    (database, url)
}
