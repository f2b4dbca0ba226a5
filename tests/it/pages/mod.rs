//! The pages for people, in a real browser.

mod barriers;
mod demo;
mod files;
mod interruptions;
mod moderation;
mod operations;
mod waiting_room;

use serde_json::json;

use crate::support::{
    app::{PASSWORD, TestApp},
    browser::Browser,
    eventually,
    http::Client,
};

/// What the page says in English.
const OPEN: &str = "You can join now";
const WAITING: &str = "Please wait";

impl TestApp {
    fn page(&self, room: &str) -> String {
        format!("http://127.0.0.1:{}/call/{room}", self.http_port())
    }

    /// Shows the page to a user, whose browser knows the login from then on.
    async fn page_of(&self, user: &str, room: &str) -> Browser {
        let browser = Browser::open().await;
        self.log_in(&browser, user, room).await;
        browser
    }

    async fn log_in(&self, browser: &Browser, user: &str, room: &str) {
        let server = format!("127.0.0.1:{}", self.http_port());
        let password = PASSWORD.replace(' ', "%20");
        browser.go(&format!("http://{user}:{password}@{server}/call?token={room}")).await;
        browser.go(&self.page(room)).await;
    }

    /// Shows the page to a guest, who enters this name.
    async fn guest_page(&self, name: &str, room: &str) -> Browser {
        let browser = Browser::open().await;
        browser.go(&self.page(room)).await;
        browser.enter(name).await;
        browser
    }

    /// A public room with a lobby and, in so many seconds, its timer.
    async fn webinar(&self, owner: &Client, seconds: Option<i64>) -> String {
        let timer = match seconds {
            Some(seconds) => Some(self.database.now().await + seconds),
            None => None,
        };
        let room = json!({
            "roomType": 3, "roomName": "Quarterly webinar", "lobbyState": 1, "lobbyTimer": timer,
            "description": "Figures of the third quarter, and time for questions.",
        });
        let room = owner.post("/room", room).await.expect(201).data();
        room["token"].as_str().unwrap().to_owned()
    }
}

impl Browser {
    async fn enter(&self, name: &str) {
        self.write("#display-name", name).await;
        self.click("#entry button").await;
        eventually("the entry", || async {
            // On a busy machine, a request may be refused: the page asks to try again.
            if !self.text("#entry-error").await.is_empty() {
                self.click("#entry button").await;
            }
            (!self.has("#entry").await).then_some(())
        })
        .await;
    }
}

/// Sets the lobby of a room.
async fn set_lobby(moderator: &Client, room: &str, state: i64, timer: Option<i64>) {
    let lobby = json!({ "state": state, "timer": timer });
    moderator.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
}
