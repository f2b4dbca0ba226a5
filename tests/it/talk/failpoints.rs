//! A process that aborts after Talk has opened a room, and before that is announced.

use super::{Talk, announced, start};
use crate::support::{
    daemon::Daemon,
    database::{Database, Kind},
};

// lobbyd's own database, beside each one that Talk runs on.
on_every_database! { crate::support::database::Database::create:
    a_room_that_opened_before_an_abort_is_announced_once,
}

async fn a_room_that_opened_before_an_abort_is_announced_once(first: Database) {
    let second = Database::create(first.kind).await;
    for (kind, own) in [(Kind::Postgres, first), (Kind::MariaDb, second)] {
        let talk = Talk::new(kind).await;
        let settings = talk.settings_on(&own);
        drop(start(&settings).await);
        // The process also announces the room of the one that aborted before.
        for (room, times) in [("first", 1), ("second", 2), ("third", 2)] {
            talk.close(room, 3, 1).await;
            Daemon::start_to_abort("talk", &settings, "after-talk-before-announce", times)
                .aborts()
                .await;
            talk.opens(room).await;
        }
        let _daemon = start(&settings).await;
        announced(&settings, &["first", "second", "third"]).await;
    }
}
