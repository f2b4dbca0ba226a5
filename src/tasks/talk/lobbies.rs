//! Sets lobbies in Talk that events ask for, through Talk's API and as a user of Talk.
//!
//! The events of a room are handled one after the other, and a room that fails delays no other. An
//! event is acknowledged when Talk has the lobby and its version is stored, or when it is a dead
//! letter. Without an account every event is one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::bus::cloudevents::{Malformed, parse_lobby_changed};
use crate::bus::{BusError, Delivery, DeliveryTag, Destination, Subscription, Transfer};
use crate::domain::{IncomingChange, Lobby, RoomToken, SipState, talk_lobby_set};
use crate::health::{Oldest, Work};
use crate::logging;
use crate::nextcloud::{Refused, TalkClient, Trouble};
use crate::relay::RelayHandle;
use crate::store::TalkRooms;
use crate::tasks::TaskContext;
use crate::tasks::lobby_consumer::ConnectionState;
use crate::tasks::receipt::Receipt;

/// Events that are handled at a time, each of another room.
const CONCURRENCY: usize = 4;

/// Wait before the next try of an event whose room does not exist yet, or that Talk failed to set.
const RETRY: Duration = Duration::from_secs(1);

/// After this time an event is a dead letter that Talk fails to set: a fault of its room, or of Talk.
const FAILED_PATIENCE: Duration = Duration::from_mins(5);

/// Wait while Talk cannot be asked.
const TROUBLE_WAIT: Duration = Duration::from_secs(5);

/// Wait after the account was refused, or the address was blocked: each further try would count.
const REFUSED_WAIT: Duration = Duration::from_mins(5);

/// Sets lobbies for events of the bus.
pub struct TalkLobbies {
    ctx: Arc<Context>,
}

struct Context {
    task: TaskContext,
    rooms: Arc<dyn TalkRooms>,
    client: Arc<TalkClient>,
    relay: RelayHandle,
    /// How long an event waits for its room.
    unknown_room_grace: Duration,
    /// How far ahead of the database's clock a version may be.
    max_clock_skew: Duration,
    /// Set while no lobby can be set.
    stop: Mutex<Option<Stop>>,
}

/// Why Talk is not asked for a while: each try with a wrong password counts as an attack.
struct Stop {
    until: Instant,
    /// That of the credentials, which end the stop when they are replaced.
    version: u64,
    problem: String,
}

struct Event {
    delivery: Delivery,
    change: Result<IncomingChange, Malformed>,
    received: Receipt,
    retry_at: Instant,
}

/// What becomes of an event.
enum Verdict {
    /// The outcome for the metric.
    Done(&'static str),
    Dead(&'static str, String),
    /// It is tried again after a while.
    Retry(String),
}

impl TalkLobbies {
    pub fn new(
        task: TaskContext,
        rooms: Arc<dyn TalkRooms>,
        client: Arc<TalkClient>,
        relay: RelayHandle,
        unknown_room_grace: Duration,
        max_clock_skew: Duration,
    ) -> Self {
        let stop = Mutex::default();
        let ctx = Context { task, rooms, client, relay, unknown_room_grace, max_clock_skew, stop };
        Self { ctx: Arc::new(ctx) }
    }

    /// Runs until `stop`, over one connection after another. What is not acknowledged then is
    /// delivered again.
    pub async fn run(self, stop: CancellationToken) {
        let mut connection = ConnectionState::new(&self.ctx.task.health);
        loop {
            let consuming = async {
                match self.ctx.task.bus.subscribe().await {
                    Ok(subscription) => {
                        connection.opened();
                        self.consume(subscription, &mut connection).await
                    }
                    Err(error) => error,
                }
            };
            let Some(lost) = stop.run_until_cancelled(consuming).await else { return };
            let wait = connection.lost(&lost);
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Handles deliveries until the subscription is lost.
    async fn consume(
        &self,
        mut subscription: Box<dyn Subscription>,
        connection: &mut ConnectionState,
    ) -> BusError {
        let (mut waiting, mut busy) = (Vec::<Event>::new(), BTreeMap::<RoomToken, Receipt>::new());
        let mut handled: FuturesUnordered<BoxFuture<'_, (Event, Verdict)>> =
            FuturesUnordered::new();
        loop {
            while handled.len() < CONCURRENCY
                && let Some(event) = take_next(&mut waiting, &busy)
            {
                busy.extend(event.token().cloned().map(|token| (token, event.received)));
                handled.push(Box::pin(async {
                    let verdict = self.ctx.handle(&event).await;
                    (event, verdict)
                }));
            }
            self.report(&waiting, &busy);
            let now = Instant::now();
            let next_at = waiting.iter().map(|event| event.retry_at).filter(|at| *at > now).min();
            tokio::select! {
                Some((event, verdict)) = handled.next() => {
                    if let Some(token) = event.token() {
                        busy.remove(token);
                    }
                    if let Some(tag) = conclude(event, verdict, &mut waiting) {
                        if let Err(lost) = subscription.acknowledge(&[tag]).await {
                            return lost;
                        }
                        connection.works();
                    }
                }
                deliveries = subscription.next() => match deliveries {
                    Ok(deliveries) => {
                        waiting.extend(deliveries.into_iter().map(|it| self.ctx.parse(it)));
                    }
                    Err(lost) => return lost,
                },
                () = sleep_until(next_at.unwrap_or(now)), if next_at.is_some() => {}
                () = connection.proven() => connection.works(),
            }
        }
    }

    /// Reports the oldest event that is not acknowledged.
    fn report(&self, waiting: &[Event], busy: &BTreeMap<RoomToken, Receipt>) {
        let ctx = &self.ctx.task;
        let waiting_since = waiting.iter().map(|event| (event.received, event.token()));
        let busy_since = busy.iter().map(|(token, received)| (*received, Some(token)));
        let oldest = waiting_since.chain(busy_since).min().map(|(received, token)| {
            let item = match token {
                Some(room) => format!("event of room {room} is not acknowledged"),
                None => "a malformed event is not acknowledged".to_owned(),
            };
            let age = TimeDelta::from_std(received.age()).unwrap_or(TimeDelta::MAX);
            Oldest { item, age }
        });
        ctx.health.set_oldest(Work::Deliveries, oldest);
        let aside = waiting.len() + busy.len();
        metrics::gauge!(crate::metrics::DELIVERIES_ASIDE)
            .set(u32::try_from(aside).unwrap_or(u32::MAX));
    }
}

/// Returns what can be acknowledged.
fn conclude(mut event: Event, verdict: Verdict, waiting: &mut Vec<Event>) -> Option<DeliveryTag> {
    let room = event.token().map(tracing::field::display);
    match verdict {
        Verdict::Done(outcome) => {
            tracing::info!(room.token = room, outcome, "event for Talk processed");
            count(outcome);
            Some(event.delivery.tag)
        }
        Verdict::Dead(outcome, reason) => {
            tracing::warn!(room.token = room, reason, "event dead-lettered");
            count(outcome);
            Some(event.delivery.tag)
        }
        Verdict::Retry(problem) => {
            tracing::debug!(room.token = room, error = problem, "event for Talk tried again later");
            event.retry_at = Instant::now() + RETRY;
            // In front of the later events of its room.
            waiting.insert(0, event);
            None
        }
    }
}

/// Takes the first event that may be handled now: later events of a room wait for the earlier ones.
fn take_next(waiting: &mut Vec<Event>, busy: &BTreeMap<RoomToken, Receipt>) -> Option<Event> {
    let now = Instant::now();
    let mut blocked: HashSet<&RoomToken> = busy.keys().collect();
    let position = waiting.iter().position(|event| {
        let is_free = event.token().is_none_or(|token| !blocked.contains(token));
        if is_free && event.retry_at <= now {
            return true;
        }
        blocked.extend(event.token());
        false
    });
    position.map(|position| waiting.remove(position))
}

fn count(outcome: &'static str) {
    metrics::counter!(crate::metrics::EVENTS, "outcome" => outcome).increment(1);
}

impl Event {
    fn token(&self) -> Option<&RoomToken> {
        self.change.as_ref().ok().map(|change| &change.token)
    }
}

impl Context {
    fn parse(&self, delivery: Delivery) -> Event {
        let now = self.task.clock.now();
        let properties = &delivery.properties;
        let received = Receipt::new(properties.waited.map(|waited| waited.first_received), now);
        let change = if delivery.body_length > delivery.body.len() {
            Err(Malformed::TooLarge(delivery.body_length))
        } else {
            parse_lobby_changed(&delivery.body, properties, now, self.max_clock_skew)
        };
        Event { delivery, change, received, retry_at: Instant::now() }
    }

    /// Sets the lobby, or stores the event as a dead letter.
    async fn handle(&self, event: &Event) -> Verdict {
        let verdict = match &event.change {
            Ok(change) => self.set(change, event.received).await,
            Err(malformed) => Verdict::Dead("malformed", malformed.to_string()),
        };
        if let Verdict::Dead(_outcome, reason) = &verdict {
            let destination = Destination::DeadLetters { reason, received: event.received.at() };
            let transfer = Transfer { delivery: &event.delivery, destination };
            if let Err(error) = self.task.bus.transfer(&[transfer]).await {
                return Verdict::Retry(logging::causes(&error));
            }
        }
        verdict
    }

    async fn set(&self, change: &IncomingChange, received: Receipt) -> Verdict {
        // What lobbyd's own API has changed is no room of Talk.
        if change.own {
            return Verdict::Done("stale");
        }
        if !self.client.has_account() {
            return Verdict::Dead("rejected", Refused::NoAccount.to_string());
        }
        let token = &change.token;
        let known = tokio::join!(
            self.task.database.talk_lobby_version(change),
            self.rooms.sample(Some(token), true)
        );
        let (version, room) = match known {
            (Ok(version), Ok(room)) => (version, room),
            (Err(error), _) | (_, Err(error)) => {
                return Verdict::Retry(logging::causes(&error));
            }
        };
        let Some(version) = version else { return Verdict::Done("stale") };
        let waited = received.age();
        let Some((_token, room_type)) = room else {
            let reason = format!("Talk has no room {token} that can have a lobby");
            return if waited < self.unknown_room_grace {
                Verdict::Retry(reason)
            } else {
                Verdict::Dead("unknown_room", reason)
            };
        };
        // A timer in the past opens the room at once.
        let is_over = change.lobby.timer.is_some_and(|timer| timer <= self.task.clock.now());
        let lobby = if is_over { Lobby::OPEN } else { change.lobby };
        if let Some(problem) = self.stopped() {
            return Verdict::Retry(problem);
        }
        let secret_version = self.client.secret_version();
        match self.client.set_lobby(token, lobby).await {
            Ok(sip) => {
                let sip = sip.unwrap_or(SipState::Disabled);
                let update = talk_lobby_set(token, room_type, lobby, version, sip);
                match self.task.database.talk_lobby_set(change, &update).await {
                    Ok(()) => {
                        self.relay.wake();
                        Verdict::Done("applied")
                    }
                    Err(error) => Verdict::Retry(logging::causes(&error)),
                }
            }
            Err(refused) => self.refused(&refused, secret_version, waited),
        }
    }

    /// Why Talk is not asked now.
    fn stopped(&self) -> Option<String> {
        let stop = self.stop.lock();
        let stop = stop.as_ref().filter(|stop| {
            Instant::now() < stop.until && self.client.secret_version() == stop.version
        });
        stop.map(|stop| stop.problem.clone())
    }

    fn refused(&self, refused: &Refused, version: u64, waited: Duration) -> Verdict {
        let problem = refused.to_string();
        let trouble = match refused {
            Refused::NoAccount | Refused::Final(_) => return Verdict::Dead("rejected", problem),
            Refused::Failed(_) if waited > FAILED_PATIENCE => {
                return Verdict::Dead("rejected", problem);
            }
            Refused::Failed(_) => return Verdict::Retry(problem),
            Refused::Trouble(trouble) => trouble,
        };
        let wait = match trouble {
            Trouble::Unauthorized | Trouble::Blocked(_) => REFUSED_WAIT,
            Trouble::Maintenance
            | Trouble::Redirected(_)
            | Trouble::Unreachable(_)
            | Trouble::Missing(_)
            | Trouble::Failing(_) => TROUBLE_WAIT,
        };
        let until = Instant::now() + wait;
        let stop = Stop { until, version, problem: problem.clone() };
        let before = self.stop.lock().replace(stop);
        if before.is_none_or(|before| before.problem != problem) {
            tracing::warn!(error = problem, "lobbies cannot be set in Talk");
        }
        Verdict::Retry(problem)
    }
}
