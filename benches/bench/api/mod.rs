//! The HTTP API: polls when nothing has changed, requests that are held until something changes,
//! and how soon their clients learn of it.

mod constant;
mod held;
mod load;
mod polls;
mod streams;

use serde_json::json;

use super::{
    options::Options,
    report::Report,
    support::{
        app::PASSWORD,
        cluster::TestCluster,
        daemon::{Daemon, add_user},
        database::Kind,
        eventually,
        http::{Api, Client, Response},
    },
};

pub use constant::serve as serve_constant;

const OWNER: &str = "owner";

/// A worker and an API process, and a room.
struct Server {
    cluster: TestCluster,
    _worker: Daemon,
    api: Daemon,
    http: Api,
    owner: Client,
    room: String,
}

/// A guest who has joined the room.
struct Guest {
    client: Client,
    cookie: String,
}

pub async fn run(options: &Options, report: &mut Report) {
    let server = Server::start().await;
    polls::run(&server, options, report).await;
    let guests = server.join(held::TOLD).await;
    held::told(&server, &guests, options, report).await;
    held::memory(&server, &guests, report).await;
}

pub async fn streams(options: &Options, report: &mut Report) {
    let server = Server::start().await;
    let guests = server.join(held::TOLD).await;
    streams::run(&server, &guests, options, report).await;
}

impl Server {
    async fn start() -> Self {
        let mut cluster = TestCluster::new(Kind::Postgres).await;
        // A quarter of the connections is kept for requests that do not wait.
        cluster.set("HTTP__MAX_CONNECTIONS", &(2 * held::HELD).to_string());
        // All guests have one address.
        cluster.set("LIMITS__JOINS_PER_MINUTE", "1000000");
        let worker = cluster.worker().await;
        add_user(&cluster.settings, OWNER, PASSWORD, &[]);
        let api = cluster.api().await;
        let http = Api::new(api.http_port);
        let owner = http.user(OWNER, PASSWORD);
        let room = owner.room(3).await;
        Self { cluster, _worker: worker, api, http, owner, room }
    }

    fn path(&self) -> String {
        format!("/room/{}", self.room)
    }

    /// The room as this client sees it.
    async fn poll(&self, client: &Client) -> Response {
        client.get(&self.path()).await.expect(200)
    }

    /// The bytes of a poll by a client that knows the room as it is. Further headers each begin with a
    /// line break.
    async fn request(&self, client: &Client, headers: &str) -> String {
        let known = self.poll(client).await;
        format!(
            "GET /ocs/v2.php/apps/spreed/api/v4/room/{} HTTP/1.1\r\nHost: localhost\r\n\
             Accept: application/json\r\nIf-None-Match: {}{headers}\r\n\r\n",
            self.room,
            known.header("etag").unwrap()
        )
    }

    /// Guests who have joined the room, each with the cookie that the request names.
    async fn join(&self, number: usize) -> Vec<Guest> {
        let clients: Vec<Client> = (0..number).map(|_index| self.http.guest()).collect();
        for clients in clients.chunks(JOINERS) {
            let joining = clients.iter().map(|client| client.join(&self.room));
            futures_util::future::join_all(joining).await;
        }
        let guest = |client: Client| Guest { cookie: client.cookies().unwrap(), client };
        clients.into_iter().map(guest).collect()
    }

    /// Closes the room until a time, and waits until the API shows it.
    async fn close_until(&self, timer: i64) {
        let lobby = json!({"state": 1, "timer": timer});
        self.owner.put(&format!("{}/webinar/lobby", self.path()), lobby).await.expect(200);
        eventually("the lobby", || async {
            let room = self.poll(&self.owner).await.data();
            (room["lobbyTimer"] == timer).then_some(())
        })
        .await;
    }
}

/// Guests who join at the same time.
const JOINERS: usize = 20;
