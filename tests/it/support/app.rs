//! The program with worker and API in one process, on a database of its own.
//!
//! Tests of the HTTP API start from it. Tests that need several processes use
//! [`TestCluster`](super::cluster::TestCluster).

use super::{
    daemon::{Daemon, Settings, add_user, as_owner, change_password, run},
    database::{Database, Kind},
    http::{Api, Client},
};

/// The password of every user.
pub const PASSWORD: &str = "correct horse";

pub struct TestApp {
    pub database: Database,
    pub api: Api,
    settings: Settings,
    daemon: Daemon,
}

impl TestApp {
    pub async fn new(kind: Kind) -> Self {
        let database = Database::create(kind).await;
        let settings = database.settings();
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

    /// Starts the program again, after it was killed, where it listened before.
    pub async fn start_again(&mut self) {
        self.daemon = self.daemon.start_again("run", &self.settings);
        self.daemon.ready().await;
    }

    /// Runs a command beside the program, with its settings, as the owner of the tables.
    pub fn run_as_owner(&self, arguments: &[&str]) {
        let output = run(&as_owner(&self.settings), arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    pub fn change_password(&self, user: &str, password: &str) {
        change_password(&self.settings, user, password);
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

    /// A new user. The display name is the id with a capital.
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
