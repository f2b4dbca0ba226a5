//! Bodies and properties of messages.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::{
    bus::{EventProperties, Waited, cloudevents},
    domain::{LobbyState, Version},
};
use rand::{RngExt, rngs::StdRng};

use crate::{Run, mutation::corpus};

const SKEW: Duration = Duration::from_mins(1);

/// Somewhat more than the longest event, in bytes.
const LONGEST: usize = 80_000;

/// Memory that does not depend on the body.
const FIXED_MEMORY: usize = 64 * 1024;

fn one_of<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

fn properties(rng: &mut StdRng) -> EventProperties {
    let times = [i64::MIN, -1, 0, 1, 1_767_225_600, 1_767_225_600_000, i64::MAX];
    let text = |rng: &mut StdRng, choices: &[&str]| {
        let choice = one_of(rng, choices);
        (choice != "-").then(|| choice.to_owned())
    };
    let waited = Waited {
        first_received: one_of(
            rng,
            &[DateTime::<Utc>::MIN_UTC, DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC],
        ),
        version: Version::parse(one_of(rng, &[0, 1_767_225_600_000, Version::LIMIT - 1])).unwrap(),
        duplicate_since: one_of(rng, &[None, Some(DateTime::UNIX_EPOCH)]),
    };
    let types =
        ["-", "", "application/json", "application/cloudevents+json", "text/plain", "\u{0}/;"];
    let time = |rng: &mut StdRng| rng.random_bool(0.3).then(|| one_of(rng, &times));
    EventProperties {
        routing_key: one_of(rng, &["lobby.changed", "lobby.changed.abc", "", "lobby.changed."])
            .to_owned(),
        content_type: text(rng, &types),
        content_encoding: text(rng, &["-", "gzip", "identity", "\u{fffd}"]),
        message_id: text(rng, &["-", "", "id"]),
        timestamp: time(rng),
        broker_timestamp: time(rng),
        waited: rng.random_bool(0.2).then_some(waited),
        redelivered: rng.random(),
        binary_cloudevent: rng.random_bool(0.1),
        trace: None,
    }
}

#[test]
fn no_message_breaks_the_parser() {
    let mut run = Run::new("events", || corpus("events"), LONGEST);
    let now = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
    let latest = Version::of(now + TimeDelta::minutes(1));
    let (mut accepted, mut refused) = (0, 0);
    while let Some((_name, body)) = run.next() {
        let properties = properties(run.mutation.rng());
        let parsed = run.measure(&body, FIXED_MEMORY, || {
            // What others may put into the exchange of updates as well.
            drop(cloudevents::parse_room_updated(&body));
            cloudevents::parse_lobby_changed(&body, &properties, now, SKEW)
        });
        match parsed {
            Ok(change) => {
                accepted += 1;
                assert!(change.order.version() <= latest, "{change:?}");
                let is_closed = change.lobby.state == LobbyState::NonModerators;
                assert!(is_closed || change.lobby.timer.is_none(), "{change:?}");
                assert!(!change.token.as_str().is_empty());
            }
            Err(reason) => {
                refused += 1;
                assert!(!reason.to_string().is_empty());
            }
        }
    }
    assert!(accepted > 0 && refused > 0);
}
