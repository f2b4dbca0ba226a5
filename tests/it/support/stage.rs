//! The program with its API, on a database of its own, and people who use it.

use serde_json::{Value, json};

use super::{
    daemon::{Daemon, Settings, add_user},
    database::{Database, Kind},
    http::{Api, Client},
};

/// Everybody's password.
pub const PASSWORD: &str = "correct horse";

pub struct Stage {
    pub database: Database,
    pub api: Api,
    settings: Settings,
    daemon: Daemon,
}

impl Stage {
    /// Worker and API in one process, on the in-process bus.
    pub async fn new(kind: Kind) -> Self {
        let database = Database::create(kind).await;
        let settings = vec![("LOBBYD__DATABASE__URL".to_owned(), database.url.clone())];
        let daemon = Daemon::start_as("run", &settings);
        daemon.ready().await;
        Self { api: Api::new(daemon.http_port), database, settings, daemon }
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((format!("LOBBYD__{key}"), value.to_owned()));
    }

    pub async fn restart(&mut self) {
        assert!(self.daemon.stop().await.success());
        self.daemon = Daemon::start_as("run", &self.settings);
        self.daemon.ready().await;
        self.api = Api::new(self.daemon.http_port);
    }

    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    pub fn http_port(&self) -> u16 {
        self.daemon.http_port
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// A new user, whose name for people has a capital.
    pub async fn user(&self, id: &str) -> Client {
        self.user_in(id, &[]).await
    }

    pub async fn user_in(&self, id: &str, groups: &[&str]) -> Client {
        add_user(&self.settings, id, PASSWORD, groups);
        let (first, rest) = id.split_at(1);
        let name = format!("{}{rest}", first.to_uppercase());
        let set = format!("UPDATE lobbyd_users SET display_name = '{name}' WHERE id = '{id}'");
        self.database.execute(&set).await;
        self.api.user(id, PASSWORD)
    }
}

impl Client {
    /// Makes a room of this type, and returns its token.
    pub async fn room(&self, room_type: i64) -> String {
        let wanted = json!({"roomType": room_type, "roomName": "Webinar"});
        let room = self.post("/room", wanted).await.expect(201).data();
        room["token"].as_str().unwrap().to_owned()
    }

    pub async fn join(&self, room: &str) -> Value {
        self.post(&format!("/room/{room}/participants/active"), json!({})).await.expect(200).data()
    }

    pub async fn add(&self, room: &str, user: &str) {
        let wanted = json!({"newParticipant": user});
        self.post(&format!("/room/{room}/participants"), wanted).await.expect(200);
    }

    pub async fn attendee_id(&self, room: &str, actor: &str) -> Value {
        let all = self.get(&format!("/room/{room}/participants")).await.expect(200).data();
        let mut all = all.as_array().unwrap().iter();
        all.find(|each| each["actorId"] == actor).unwrap()["attendeeId"].clone()
    }

    /// The names of the chat's system messages, in their order.
    pub async fn system_messages(&self, room: &str) -> Vec<String> {
        let chat = format!("/chat/{room}?lookIntoFuture=1&timeout=0&limit=200");
        let messages = self.get(&chat).await.expect(200).data();
        let names = messages.as_array().unwrap().iter().map(|each| &each["systemMessage"]);
        names
            .map(|name| name.as_str().unwrap().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }
}

/// One of each kind of participant, in a public room.
pub struct Cast {
    pub room: String,
    pub owner: Client,
    pub moderator: Client,
    pub user: Client,
    pub self_joined: Client,
    pub guest: Client,
    pub guest_moderator: Client,
}

impl Cast {
    pub async fn of(stage: &Stage) -> Self {
        let owner = stage.user("owner").await;
        let room = owner.room(3).await;
        let moderator = stage.user("moderator").await;
        let user = stage.user("user").await;
        let self_joined = stage.user("self").await;
        owner.add(&room, "moderator").await;
        owner.add(&room, "user").await;
        let promote = format!("/room/{room}/moderators");
        let id = owner.attendee_id(&room, "moderator").await;
        owner.post(&promote, json!({"attendeeId": id})).await.expect(200);
        let (guest, guest_moderator) = (stage.api.guest(), stage.api.guest());
        self_joined.join(&room).await;
        guest.join(&room).await;
        let id = guest_moderator.join(&room).await["attendeeId"].clone();
        owner.post(&promote, json!({"attendeeId": id})).await.expect(200);
        Self { room, owner, moderator, user, self_joined, guest, guest_moderator }
    }

    pub fn everybody(&self) -> [&Client; 6] {
        let Self { owner, moderator, user, self_joined, guest, guest_moderator, .. } = self;
        [owner, moderator, user, self_joined, guest, guest_moderator]
    }
}
