//! lobbyd with signaling servers in its configuration, on real databases and the shared broker.

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::front::Front;
use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, program},
    database::{Database, Kind},
    eventually,
    server::folder,
    signaling::{SECRET, SignalingServer},
};

/// A signaling server with a reverse proxy, and what lobbyd needs to tell it of rooms.
pub struct Site {
    pub cluster: TestCluster,
    pub signaling: SignalingServer,
    pub front: Front,
    /// lobbyd's configuration file.
    file: PathBuf,
}

impl Site {
    /// lobbyd is to tell the server by the proxy.
    pub async fn new(kind: Kind) -> Self {
        let (cluster, signaling) = (TestCluster::new(kind).await, SignalingServer::start().await);
        // Its queue takes the updates of rooms, so that none of them waits in the outbox.
        cluster.client().await;
        let front = Front::of(&signaling).await;
        let file = folder("config-").join("lobbyd.toml");
        let site = Self { cluster, signaling, front, file };
        site.configure(&[(&site.front.url(), &site.signaling.backend())]);
        site
    }

    /// Configures these servers, each with its backend.
    pub fn configure(&self, servers: &[(&str, &str)]) {
        let entry = |(url, backend): &(&str, &str)| {
            format!(r#"{{ url = "{url}", backend = "{backend}/", secret = "{SECRET}" }}"#)
        };
        let entries: Vec<String> = servers.iter().map(entry).collect();
        self.configure_as(&entries.join(", "));
    }

    pub fn configure_as(&self, entries: &str) {
        fs::write(&self.file, format!("[signaling]\nservers = [{entries}]\n")).unwrap();
    }

    pub fn database(&self) -> &Database {
        &self.cluster.database
    }

    /// Starts a worker that aborts when it first reaches a point.
    #[cfg(feature = "failpoints")]
    pub fn start_to_abort(&self, point: &str) -> Daemon {
        let mut program = program(&self.cluster.settings);
        program.arg("worker").arg("--config").arg(&self.file).env("LOBBYD_FAILPOINT", point);
        Daemon::spawn(&mut program)
    }

    /// Starts the program with the command `run`, `worker` or `api`, and waits until it is ready.
    pub async fn start_as(&self, command: &str) -> Daemon {
        let mut program = program(&self.cluster.settings);
        let daemon = Daemon::spawn(program.arg(command).arg("--config").arg(&self.file));
        daemon.ready().await;
        daemon
    }

    pub async fn worker(&self) -> Daemon {
        self.start_as("worker").await
    }

    /// Inserts an open room with these users.
    pub async fn insert_room(&self, token: &str, users: &[&str]) {
        self.database().insert_room(token).await;
        self.add_attendees(token, "users", users).await;
    }

    pub async fn add_attendees(&self, token: &str, actors: &str, ids: &[&str]) {
        let room = format!("(SELECT id FROM lobbyd_rooms WHERE token = '{token}')");
        let row = |id: &&str| format!("({room}, '{actors}', '{id}', '{id}', 3)");
        let insert = "INSERT INTO lobbyd_attendees
                          (room_id, actor_type, actor_id, display_name, participant_type) VALUES";
        for some in ids.chunks(500) {
            let rows: Vec<String> = some.iter().map(row).collect();
            self.database().execute(&format!("{insert} {}", rows.join(","))).await;
        }
    }

    /// Closes a room for so many seconds, as a program does that writes the table.
    pub async fn close(&self, token: &str, seconds: i64) {
        let timer = self.database().timestamp_sql(self.database().now().await + seconds);
        let close = format!("UPDATE lobbyd_rooms SET lobby_state = 1, lobby_timer = {timer}");
        assert_eq!(self.database().execute(&format!("{close} WHERE token = '{token}'")).await, 1);
    }

    /// Waits until a worker has counted at least so many requests with this outcome, and returns
    /// their number. What clients are told is counted a moment later.
    pub async fn counted(worker: &Daemon, server: &str, outcome: &str, number: u64) -> u64 {
        let labels = format!("server=\"{server}\",outcome=\"{outcome}\"");
        let name = format!("lobbyd_signaling_requests_total{{{labels}}}");
        eventually(&format!("{number} of {name}"), || async {
            worker.metric(&name).await.filter(|counted| *counted >= number)
        })
        .await
    }

    /// Waits until nothing is left that a server has to be told.
    pub async fn all_told(&self) {
        eventually("every server to be told everything", || async {
            (self.untold().await == 0).then_some(())
        })
        .await;
    }

    /// What servers have to be told, and changes that have yet to be passed on.
    pub async fn untold(&self) -> i64 {
        let changes = "(SELECT count(*) FROM lobbyd_signaling_changes)";
        let updates = "(SELECT count(*) FROM lobbyd_signaling_updates)";
        self.database().number(&format!("SELECT {changes} + {updates}")).await
    }
}

/// Waits until the part of the readiness that is about signaling has this status.
pub async fn signaling_is(worker: &Daemon, expected: u16) -> String {
    eventually(&format!("status {expected} of signaling"), || async {
        let (status, text) = worker.get("/readyz?part=signaling").await?;
        (status == expected).then_some(text)
    })
    .await
}

/// The date of a timer (Unix seconds), as PHP writes it.
pub fn date(timer: i64) -> Value {
    let time = chrono::DateTime::from_timestamp(timer, 0).unwrap();
    serde_json::json!({
        "date": time.format("%Y-%m-%d %H:%M:%S.000000").to_string(),
        "timezone_type": 3,
        "timezone": "UTC",
    })
}
