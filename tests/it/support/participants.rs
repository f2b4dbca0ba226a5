//! The participants of a room, and the requests that many tests make for them.

use serde_json::{Value, json};

use super::{app::TestApp, http::Client};

impl Client {
    /// Creates a room of this type, and returns its token.
    pub async fn room(&self, room_type: i64) -> String {
        let request = json!({"roomType": room_type, "roomName": "Webinar"});
        let room = self.post("/room", request).await.expect(201).data();
        room["token"].as_str().unwrap().to_owned()
    }

    pub async fn join(&self, room: &str) -> Value {
        self.post(&format!("/room/{room}/participants/active"), json!({})).await.expect(200).data()
    }

    pub async fn add(&self, room: &str, user: &str) {
        let request = json!({"newParticipant": user});
        self.post(&format!("/room/{room}/participants"), request).await.expect(200);
    }

    pub async fn attendee_id(&self, room: &str, actor: &str) -> Value {
        let all = self.get(&format!("/room/{room}/participants")).await.expect(200).data();
        let mut all = all.as_array().unwrap().iter();
        all.find(|each| each["actorId"] == actor).unwrap()["attendeeId"].clone()
    }

    /// The names of the system messages in the chat, oldest first.
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

/// A public room with one participant of each kind.
pub struct Participants {
    pub room: String,
    pub owner: Client,
    pub moderator: Client,
    pub user: Client,
    pub self_joined: Client,
    pub guest: Client,
    pub guest_moderator: Client,
}

impl Participants {
    pub async fn of(app: &TestApp) -> Self {
        let owner = app.user("owner").await;
        let room = owner.room(3).await;
        let moderator = app.user("moderator").await;
        let user = app.user("user").await;
        let self_joined = app.user("self").await;
        owner.add(&room, "moderator").await;
        owner.add(&room, "user").await;
        let promote = format!("/room/{room}/moderators");
        let id = owner.attendee_id(&room, "moderator").await;
        owner.post(&promote, json!({"attendeeId": id})).await.expect(200);
        let (guest, guest_moderator) = (app.api.guest(), app.api.guest());
        self_joined.join(&room).await;
        guest.join(&room).await;
        let id = guest_moderator.join(&room).await["attendeeId"].clone();
        owner.post(&promote, json!({"attendeeId": id})).await.expect(200);
        Self { room, owner, moderator, user, self_joined, guest, guest_moderator }
    }

    pub fn all(&self) -> [&Client; 6] {
        let Self { owner, moderator, user, self_joined, guest, guest_moderator, .. } = self;
        [owner, moderator, user, self_joined, guest, guest_moderator]
    }
}
