//! Opening and announcing one room: one statement, and one message with its confirm.

use lapin::message::Delivery;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

use super::{postgres, publisher::Publisher};
use crate::{clock, support::database::Database};

pub struct Single {
    database: Database,
    connection: Mutex<PgConnection>,
    publisher: Publisher,
}

impl Single {
    /// Publishes this update each time.
    pub async fn new(database: Database, amqp_url: &str, update: Delivery) -> Self {
        let connection = PgConnection::connect(&database.url).await.unwrap();
        let publisher = Publisher::connect(amqp_url, vec![update]).await;
        Self { database, connection: Mutex::new(connection), publisher }
    }

    /// Seconds that it takes for a room that is due already.
    pub async fn measure(&self) -> f64 {
        let due = clock::second();
        self.database.insert_rooms(&format!("single{due}x"), 1, due).await;
        let mut connection = self.connection.lock().await;
        let begin = clock::now();
        assert_eq!(postgres::open_batch(&mut connection, (0, 0)).await.len(), 1);
        self.publisher.publish_one().await;
        clock::now() - begin
    }
}
