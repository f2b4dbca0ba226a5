//! A stand-in for a Nextcloud with Talk: its table of rooms, and an HTTP server that resets a room
//! when it is read. The real one cannot be installed by a test, so this is what it repeats of Talk
//! 24.0.0-rc.1 and 21, for a comparison with another version:
//!
//! | behaviour | source |
//! | --- | --- |
//! | table `oc_talk_rooms`, times in UTC and whole seconds, most columns may be null | ran |
//! | `GET room/{token}` with a timer before the time of PHP resets the row by its id alone, and writes one message | ran |
//! | `Talk-SIPBridge-Random` of 32 characters or more, `Talk-SIPBridge-Checksum` = HMAC-SHA256(secret, random + token) in hexadecimal digits; a wrong one is 401 | ran |
//! | without signature: public rooms only, others are 404 | ran |
//! | signed, for a room that does not exist: 404 | ran |
//! | ten of these 401 or 404: the address gets 429 for every request | ran |
//! | signaling server unavailable: 500 after the room was opened | ran |
//! | maintenance mode: 503 without Retry-After | ran |
//! | the answer has `sipEnabled` for a signed request | read |
//! | `PUT room/{token}/webinar/lobby` by a moderator, 401 for a wrong app password | ran |

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::support::{
    daemon::{Settings, settings},
    database::{Database, Kind},
    eventually,
    server::folder,
};

pub const SECRET: &str = "secret of the SIP bridge";

/// The table as Talk 24 creates it, with the columns that matter.
const POSTGRES_TABLE: &str = "
    CREATE TABLE oc_talk_rooms (
        id SERIAL PRIMARY KEY, name VARCHAR(255) DEFAULT '', token VARCHAR(32) DEFAULT '',
        type INT NOT NULL, lobby_state INT DEFAULT 0 NOT NULL,
        lobby_timer TIMESTAMP(0) WITHOUT TIME ZONE DEFAULT NULL, sip_enabled SMALLINT DEFAULT 0,
        remote_server VARCHAR(512) DEFAULT NULL);
    CREATE UNIQUE INDEX tr_room_token ON oc_talk_rooms (token)";
const MARIADB_TABLE: &str = "
    CREATE TABLE oc_talk_rooms (
        id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, name VARCHAR(255) DEFAULT '',
        token VARCHAR(32) DEFAULT '', type INT NOT NULL, lobby_state INT UNSIGNED DEFAULT 0 NOT NULL,
        lobby_timer DATETIME DEFAULT NULL, sip_enabled SMALLINT UNSIGNED DEFAULT 0,
        remote_server VARCHAR(512) DEFAULT NULL,
        UNIQUE INDEX tr_room_token (token)) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// How the site treats a request that it would otherwise answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 for everything.
    Maintenance,
    /// 500 after the room is open, as without a signaling server.
    FailsAfterReset,
    /// 500, and the room stays closed.
    Fails,
    /// No answer.
    Hangs,
    /// 302 to another address.
    Redirects,
    /// 404 though the room is there.
    Hides,
}

#[derive(Default)]
struct Site {
    faults: BTreeMap<String, Fault>,
    /// Of every request that is not in `faults`.
    fault: Option<Fault>,
    secret: String,
    /// How far the clock of PHP is ahead of the database's.
    clock_ahead: i64,
    /// Time that each request takes.
    delay: Duration,
    /// The tokens of the requests.
    requests: Vec<String>,
    /// The rooms that were reset, one entry for each message in a chat.
    messages: Vec<String>,
    wrong: u32,
    is_blocking: bool,
    /// Lobbies that were set by the account.
    lobbies: Vec<Value>,
}

pub struct Talk {
    pub database: Arc<Database>,
    pub port: u16,
    site: Arc<Mutex<Site>>,
    /// Ends with it.
    _server: JoinSet<()>,
}

type Shared = State<(Arc<Mutex<Site>>, Arc<Database>)>;

impl Talk {
    pub async fn new(kind: Kind) -> Self {
        Self::on(Database::of_another(kind).await).await
    }

    pub async fn on(database: Database) -> Self {
        let table = if database.kind == Kind::Postgres { POSTGRES_TABLE } else { MARIADB_TABLE };
        for statement in table.split(';') {
            database.execute(statement).await;
        }
        let database = Arc::new(database);
        let site = Site { secret: SECRET.to_owned(), ..Site::default() };
        let site = Arc::new(Mutex::new(site));
        let api = "/ocs/v2.php/apps/spreed/api/v4/room/{token}";
        let router = Router::new()
            .route("/status.php", get(status))
            .route(api, get(read_room))
            .route(&format!("{api}/webinar/lobby"), put(set_lobby))
            .with_state((Arc::clone(&site), Arc::clone(&database)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { database, port, site, _server: server }
    }

    /// The settings of a `lobbyd talk` beside this site, with a SQLite database of its own.
    pub fn settings(&self) -> Settings {
        self.settings_on(&Database::in_file(&folder("talk-").join("lobbyd.db")))
    }

    /// The settings of a `lobbyd talk` beside this site, with this database of its own.
    pub fn settings_on(&self, own: &Database) -> Settings {
        let mut settings = settings(&[
            ("LOBBYD__TALK__URL", &format!("http://127.0.0.1:{}", self.port)),
            ("LOBBYD__TALK__SECRET", SECRET),
            ("LOBBYD__TALK__DATABASE_URL", &self.database.url),
        ]);
        settings.extend(own.settings());
        settings
    }

    /// Inserts a closed room whose timer is due in so many seconds. Returns its timer.
    pub async fn close(&self, token: &str, room_type: i64, seconds: i64) -> i64 {
        let timer = self.database.now().await + seconds;
        self.insert(token, room_type, timer, "NULL").await;
        timer
    }

    pub async fn insert(&self, token: &str, room_type: i64, timer: i64, remote_server: &str) {
        let timer = self.time(timer);
        let insert = "INSERT INTO oc_talk_rooms
                          (name, token, type, lobby_state, lobby_timer, remote_server)";
        let values = format!("('Webinar', '{token}', {room_type}, 1, {timer}, {remote_server})");
        self.database.execute(&format!("{insert} VALUES {values}")).await;
    }

    /// Inserts closed public rooms PREFIX1, PREFIX2, … that are due in so many seconds.
    pub async fn close_many(&self, prefix: &str, number: u32, seconds: i64) {
        let timer = self.time(self.database.now().await + seconds);
        let row = |index| format!("('Webinar', '{prefix}{index}', 3, 1, {timer})");
        let rows: Vec<String> = (1..=number).map(row).collect();
        let insert = "INSERT INTO oc_talk_rooms (name, token, type, lobby_state, lobby_timer)";
        self.database.execute(&format!("{insert} VALUES {}", rows.join(","))).await;
    }

    /// Sets the timer of a room, as a moderator does.
    pub async fn set_timer(&self, token: &str, timer: Option<i64>) {
        let timer = timer.map_or("NULL".to_owned(), |timer| self.time(timer));
        let set = format!("UPDATE oc_talk_rooms SET lobby_timer = {timer} WHERE token = '{token}'");
        assert_eq!(self.database.execute(&set).await, 1);
    }

    fn time(&self, seconds: i64) -> String {
        match self.database.kind {
            Kind::Postgres => format!("to_timestamp({seconds}) AT TIME ZONE 'UTC'"),
            Kind::Sqlite | Kind::MariaDb => self.database.timestamp_sql(seconds),
        }
    }

    pub async fn is_open(&self, token: &str) -> bool {
        let count = format!(
            "SELECT count(*) FROM oc_talk_rooms WHERE token = '{token}' AND lobby_state = 0"
        );
        self.database.number(&count).await == 1
    }

    pub async fn opens(&self, token: &str) {
        eventually(&format!("room {token} to open"), || async {
            self.is_open(token).await.then_some(())
        })
        .await;
    }

    pub async fn all_open(&self) {
        let closed = "SELECT count(*) FROM oc_talk_rooms WHERE lobby_state <> 0";
        eventually("every room of Talk to open", || async {
            (self.database.number(closed).await == 0).then_some(())
        })
        .await;
    }

    /// Waits until a room was asked for so many times.
    pub async fn asked(&self, token: &str, times: usize) {
        eventually(&format!("{times} requests for {token}"), || async {
            (self.requests(token) >= times).then_some(())
        })
        .await;
    }

    pub fn requests(&self, token: &str) -> usize {
        self.site.lock().requests.iter().filter(|other| *other == token).count()
    }

    pub fn all_requests(&self) -> Vec<String> {
        self.site.lock().requests.clone()
    }

    /// How often the chat says that the timer is over.
    pub fn messages(&self, token: &str) -> usize {
        self.site.lock().messages.iter().filter(|other| *other == token).count()
    }

    pub fn lobbies(&self) -> Vec<Value> {
        self.site.lock().lobbies.clone()
    }

    pub fn set_fault(&self, fault: impl Into<Option<Fault>>) {
        self.site.lock().fault = fault.into();
    }

    pub fn set_fault_of(&self, token: &str, fault: Option<Fault>) {
        let faults = &mut self.site.lock().faults;
        match fault {
            Some(fault) => faults.insert(token.to_owned(), fault),
            None => faults.remove(token),
        };
    }

    pub fn set_secret(&self, secret: &str) {
        secret.clone_into(&mut self.site.lock().secret);
    }

    pub fn set_clock_ahead(&self, seconds: i64) {
        self.site.lock().clock_ahead = seconds;
    }

    pub fn set_delay(&self, delay: Duration) {
        self.site.lock().delay = delay;
    }

    pub fn set_blocking(&self, is_blocking: bool) {
        let mut site = self.site.lock();
        (site.is_blocking, site.wrong) = (is_blocking, 0);
    }
}

async fn status(State((site, _database)): Shared) -> Response {
    let maintenance = site.lock().fault == Some(Fault::Maintenance);
    answer(&json!({ "installed": true, "maintenance": maintenance }))
}

fn answer(body: &Value) -> Response {
    ([("Content-Type", "application/json")], body.to_string()).into_response()
}

/// A request that counts as an attack.
fn attack(site: &Mutex<Site>, status: StatusCode) -> Response {
    let mut site = site.lock();
    site.wrong += 1;
    site.is_blocking |= site.wrong >= 10;
    status.into_response()
}

fn is_signed(headers: &HeaderMap, token: &str, secret: &str) -> Option<bool> {
    let random = headers.get("Talk-SIPBridge-Random")?.to_str().ok()?;
    let checksum = headers.get("Talk-SIPBridge-Checksum")?.to_str().ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(random.as_bytes());
    mac.update(token.as_bytes());
    let expected = mac.finalize().into_bytes();
    let digits =
        |index: usize| u8::from_str_radix(checksum.get(2 * index..2 * index + 2)?, 16).ok();
    let is_right = (0..expected.len()).all(|index| digits(index) == Some(expected[index]));
    Some(random.len() >= 32 && checksum.len() == 64 && is_right)
}

async fn read_room(
    State((site, database)): Shared,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Response {
    assert_eq!(headers["OCS-APIRequest"], "true");
    let (fault, secret, ahead, delay) = {
        let mut site = site.lock();
        site.requests.push(token.clone());
        if site.is_blocking {
            return StatusCode::TOO_MANY_REQUESTS.into_response();
        }
        let fault = site.faults.get(&token).copied().or(site.fault);
        (fault, site.secret.clone(), site.clock_ahead, site.delay)
    };
    sleep(delay).await;
    match fault {
        Some(Fault::Maintenance) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Fault::Fails) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some(Fault::Hangs) => return std::future::pending().await,
        Some(Fault::Redirects) => {
            let target = [("Location", "http://127.0.0.1:1/elsewhere")];
            return (StatusCode::FOUND, target).into_response();
        }
        Some(Fault::Hides) => return attack(&site, StatusCode::NOT_FOUND),
        Some(Fault::FailsAfterReset) | None => {}
    }
    let signed = is_signed(&headers, &token, &secret);
    if signed == Some(false) {
        return attack(&site, StatusCode::UNAUTHORIZED);
    }
    let column = |column: &str| {
        let integer = if database.kind == Kind::MariaDb { "SIGNED" } else { "BIGINT" };
        format!("SELECT CAST({column} AS {integer}) FROM oc_talk_rooms WHERE token = '{token}'")
    };
    let types = database.numbers(&column("type")).await;
    let Some(room_type) = types.first().copied() else {
        return attack(&site, StatusCode::NOT_FOUND);
    };
    if signed.is_none() && room_type != 3 {
        return StatusCode::NOT_FOUND.into_response();
    }
    // Times in the past are compared in whole seconds and fractions, as PHP does.
    let now = database.now_millis().await + ahead * 1000;
    let epoch = match database.kind {
        Kind::Postgres => "coalesce(extract(epoch FROM lobby_timer), 0)",
        Kind::Sqlite | Kind::MariaDb => {
            "coalesce(TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_timer), 0)"
        }
    };
    let timer = database.numbers(&column(epoch)).await[0];
    let state = database.numbers(&column("lobby_state")).await[0];
    let is_over = state == 1 && timer > 0 && timer * 1000 < now;
    if is_over {
        let reset = "UPDATE oc_talk_rooms SET lobby_state = 0, lobby_timer = NULL WHERE token";
        database.execute(&format!("{reset} = '{token}'")).await;
        site.lock().messages.push(token.clone());
    }
    if fault == Some(Fault::FailsAfterReset) && is_over {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let state = if is_over { 0 } else { state };
    let room = json!({ "token": token, "type": room_type, "lobbyState": state, "sipEnabled": 1 });
    answer(&json!({ "ocs": { "meta": { "status": "ok" }, "data": room } }))
}

async fn set_lobby(
    State((site, database)): Shared,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    // lobbyd:app password
    if headers.get("Authorization").is_none_or(|it| it != "Basic bG9iYnlkOmFwcCBwYXNzd29yZA==") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if site.lock().faults.get(&token) == Some(&Fault::Fails) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    let count = format!("SELECT count(*) FROM oc_talk_rooms WHERE token = '{token}'");
    if database.number(&count).await == 0 {
        return StatusCode::NOT_FOUND.into_response();
    }
    let timer = body["timer"].as_i64().map_or("NULL".to_owned(), |timer| match database.kind {
        Kind::Postgres => format!("to_timestamp({timer}) AT TIME ZONE 'UTC'"),
        Kind::Sqlite | Kind::MariaDb => database.timestamp_sql(timer),
    });
    let state = &body["state"];
    let set = format!("UPDATE oc_talk_rooms SET lobby_state = {state}, lobby_timer = {timer}");
    database.execute(&format!("{set} WHERE token = '{token}'")).await;
    site.lock().lobbies.push(json!({ "token": token, "lobby": body }));
    answer(&json!({ "ocs": { "data": {} } }))
}
