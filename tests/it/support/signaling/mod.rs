//! A real signaling server of Nextcloud Talk, a stand-in for the Nextcloud that it asks, and
//! websocket clients.
//!
//! The server is Debian's package `nextcloud-spreed-signaling`, with the bus in its own process.

mod backend;
pub mod client;

use std::fs;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use self::{backend::Backend, client::Client};
use super::{
    root::installed,
    server::{Server, folder, free_port},
};

const PROGRAM: &str = "/usr/bin/nextcloud-spreed-signaling-server";

/// The secret that the server shares with its Nextcloud.
pub const SECRET: &str = "lobbyd-example-secret";

/// The signature of a body, as both sides of the protocol make it.
pub fn checksum(secret: &str, random: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(random.as_bytes());
    mac.update(body);
    mac.finalize()
        .into_bytes()
        .iter()
        .fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
}

pub struct SignalingServer {
    pub server: Server,
    backend: Backend,
}

impl SignalingServer {
    pub async fn start() -> Self {
        let backend = Backend::start().await;
        let (folder, port) = (folder("signaling-"), free_port());
        let configuration = folder.join("server.conf");
        fs::write(&configuration, configured(port, &backend)).unwrap();
        let mut command = installed(PROGRAM);
        command.arg("--config").arg(&configuration).current_dir(&folder);
        Self { server: Server::new(port, folder, command, None), backend }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// The base URL of its Nextcloud.
    pub fn backend(&self) -> String {
        self.backend.url()
    }

    /// A user who is connected, and in no room.
    pub async fn user(&self, id: &str) -> Client {
        Client::connect(self.server.port, &self.backend.url(), Some(id)).await
    }

    /// A guest in a room.
    pub async fn guest_in(&self, token: &str) -> Client {
        let guest = Client::connect(self.server.port, &self.backend.url(), None).await;
        guest.join(token).await;
        guest
    }
}

fn configured(port: u16, backend: &Backend) -> String {
    let url = backend.url();
    format!(
        "[http]
         listen = 127.0.0.1:{port}
         [sessions]
         hashkey = 0123456789abcdef0123456789abcdef
         blockkey = 0123456789abcdef0123456789abcdef
         [clients]
         internalsecret = not used
         [backend]
         backends = nextcloud
         timeout = 10
         connectionsperhost = 8
         [nextcloud]
         url = {url}
         secret = {SECRET}
         [nats]
         url = :loopback:
        "
    )
}
