//! What a worker does with one subscription: it takes deliveries, decides where each one goes, and
//! acknowledges them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::pin;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::ConnectionState;
use super::event::{DeadLetter, Event, Obstacle, Outgoing, Parked, Undone, oldest};
use super::lanes::Lanes;
use super::transfers::Transfers;
use super::trial::{Trial, tried};
use super::{End, LobbyConsumer};
use crate::bus::cloudevents::{Malformed, parse_lobby_changed};
use crate::bus::{BusError, Delivery, DeliveryTag, Subscription};
use crate::domain::{Applied, IncomingChange};
use crate::failpoints::{self, Point};
use crate::health::{Oldest, Work};
use crate::tasks::MAX_LOGGED;
use crate::tasks::receipt::Receipt;
use crate::traces::{Kind, Span};

/// How long an event of an unknown room is tried here before it waits at the broker.
const UNKNOWN_ROOM_PATIENCE: Duration = Duration::from_millis(200);

/// Deliveries that are parsed before the database's answer is looked for again.
const PARSED_AT_ONCE: u32 = 8;

/// How long a parked event of a locked or slow room counts as not done: until it is delivered again.
const PARKED_FOR: Duration = Duration::from_secs(3);

/// Logs what happened to an event, at the default level unless there are many.
macro_rules! log {
    ($is_logged:expr, $($fields:tt)+) => {
        if $is_logged { tracing::info!($($fields)+) } else { tracing::debug!($($fields)+) }
    };
}

pub(super) struct Consumption<'a> {
    pub(super) task: &'a LobbyConsumer,
    pub(super) subscription: Box<dyn Subscription>,
    connection: &'a mut ConnectionState,
    pub(super) stop: &'a CancellationToken,
    /// Why the subscription cannot be used any further.
    lost: Option<BusError>,
    /// What was delivered while a set was being committed, in order: first the events that are parsed
    /// already.
    next_set: Vec<Event>,
    unparsed: VecDeque<Delivery>,
    /// The oldest event that is being applied.
    pub(super) applying: Option<Undone>,
    pub(super) lanes: Lanes,
    pub(super) trial: Option<Trial<'a>>,
    pub(super) dead_letters: Transfers<DeadLetter>,
    pub(super) parking: Transfers<Parked>,
    /// The oldest event of a locked or slow room that has just been parked, and until when that counts.
    parked: Option<(Undone, Instant)>,
    /// What can be acknowledged.
    done: Vec<DeliveryTag>,
}

impl<'a> Consumption<'a> {
    pub(super) fn new(
        task: &'a LobbyConsumer,
        subscription: Box<dyn Subscription>,
        connection: &'a mut ConnectionState,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            task,
            subscription,
            connection,
            stop,
            lost: None,
            next_set: Vec::new(),
            unparsed: VecDeque::new(),
            applying: None,
            lanes: Lanes::default(),
            trial: None,
            dead_letters: Transfers::new("dead letters"),
            parking: Transfers::new("events that wait"),
            parked: None,
            done: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> End {
        match self.consume().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn consume(&mut self) -> Result<Infallible, End> {
        loop {
            self.park_crowd();
            self.try_slow();
            self.acknowledge().await?;
            self.report();
            let is_trying_slow = self.trial.is_some();
            tokio::select! {
                // In this order: what comes last may always be ready, the others take their time.
                biased;
                () = self.stop.cancelled() => return Err(End::Stopped),
                () = self.connection.proven() => self.connection.works(),
                () = expired(self.parked.as_ref()) => self.parked = None,
                (letters, stored) = self.dead_letters.sent(&self.task.ctx.bus) => {
                    self.conclude_dead_letters(letters, stored);
                }
                (parked, stored) = self.parking.sent(&self.task.ctx.bus) => {
                    self.conclude_parking(parked, stored);
                }
                outcome = tried(&mut self.trial) => self.conclude_trial(outcome).await?,
                () = self.lanes.due(is_trying_slow) => {
                    let events = self.lanes.take_due();
                    self.apply(events).await?;
                    self.lanes.conclude_due();
                }
                () = ready(()), if self.has_arrived() => self.apply_arrived().await?,
                deliveries = self.subscription.next(), if !self.has_arrived() => {
                    self.unparsed.extend(deliveries?);
                    self.apply_arrived().await?;
                }
            }
        }
    }

    fn has_arrived(&self) -> bool {
        !self.next_set.is_empty() || !self.unparsed.is_empty()
    }

    async fn apply_arrived(&mut self) -> Result<(), End> {
        while self.parse_next() {}
        let arrived = std::mem::take(&mut self.next_set);
        let set = arrived.into_iter().filter_map(|event| self.lanes.join(event)).collect();
        self.apply(set).await
    }

    /// Waits for a step of the database, and meanwhile takes and parses what is delivered: most of
    /// that costs no time then. At the careful pace nothing further is asked for.
    pub(super) async fn while_parsing<T>(&mut self, step: impl Future<Output = T>) -> T {
        pin!(step);
        loop {
            let takes =
                self.unparsed.is_empty() && self.lost.is_none() && self.subscription.capacity() > 1;
            tokio::select! {
                biased;
                done = &mut step => return done,
                () = ready(()), if !self.unparsed.is_empty() => {
                    let _has_more = (0..PARSED_AT_ONCE).all(|_| self.parse_next());
                }
                deliveries = self.subscription.next(), if takes => match deliveries {
                    Ok(deliveries) => self.unparsed.extend(deliveries),
                    Err(lost) => self.lost = Some(lost),
                },
            }
        }
    }

    /// Parses the next delivery, if there is one.
    fn parse_next(&mut self) -> bool {
        let Some(delivery) = self.unparsed.pop_front() else { return false };
        if let Some(event) = self.parse(delivery) {
            self.next_set.push(event);
        }
        true
    }

    /// Parses a delivery. One that is malformed becomes a dead letter.
    fn parse(&mut self, delivery: Delivery) -> Option<Event> {
        let LobbyConsumer { ctx, max_clock_skew, .. } = self.task;
        let properties = &delivery.properties;
        let mut span = ctx.traces.span("process lobby.changed", Kind::Consumer, properties.trace);
        let now = ctx.clock.now();
        let received = Receipt::new(properties.waited.map(|waited| waited.first_received), now);
        let parsed = if delivery.body_length > delivery.body.len() {
            Err(Malformed::TooLarge(delivery.body_length))
        } else {
            parse_lobby_changed(&delivery.body, properties, now, *max_clock_skew)
        };
        match parsed {
            Ok(change) => {
                span.set("lobbyd.room.token", &change.token);
                Some(Event { delivery, change, received, span })
            }
            Err(malformed) => {
                let reason = malformed.to_string();
                let letter = DeadLetter::new(delivery, received, None, "malformed", reason, span);
                self.dead_letters.push(letter);
                None
            }
        }
    }

    /// Decides about events that the database has answered. It was asked at `asked_at`: the process may
    /// have been stopped since then.
    pub(super) fn conclude(
        &mut self,
        events: Vec<Event>,
        results: Vec<Applied>,
        asked_at: Instant,
    ) {
        let number = events.len();
        let applied = results.iter().filter(|each| matches!(each, Applied::Set { .. })).count();
        let stale = results.iter().filter(|each| matches!(each, Applied::Stale)).count();
        for (event, applied) in events.into_iter().zip(results) {
            self.conclude_one(event, applied, asked_at, number <= MAX_LOGGED);
        }
        if number > MAX_LOGGED {
            tracing::info!(events = number, applied, stale, "events processed");
        }
    }

    fn conclude_one(
        &mut self,
        mut event: Event,
        applied: Applied,
        asked_at: Instant,
        is_logged: bool,
    ) {
        let LobbyConsumer { ctx, timers, .. } = self.task;
        let (room, lobby) = (&event.change.token, event.change.lobby);
        match applied {
            Applied::Set { replaced } => {
                count("applied", &mut event.span);
                report_set(&event.change, replaced, is_logged);
                if let Some(timer) = lobby.scheduled() {
                    timers.armed(timer, ctx.clock.now());
                }
                self.done.push(event.delivery.tag);
            }
            Applied::Stale => {
                count("stale", &mut event.span);
                let version = event.change.order.version().milliseconds();
                log!(is_logged, room.token = %room, version, "stale event ignored");
                // This transaction had locked the row, and the timer task skips locked rows.
                timers.wake();
                self.done.push(event.delivery.tag);
            }
            Applied::LobbyNotSupported => {
                let reason = format!("room {room} is of a type or object without lobby");
                self.dead_letters.push(event.dead_letter("no_lobby", reason));
            }
            Applied::Locked => {
                self.lanes.set_aside(event, Obstacle::Locked, Duration::ZERO);
            }
            Applied::UnknownRoom => self.conclude_unknown(event, asked_at),
        }
    }

    fn conclude_unknown(&mut self, event: Event, asked_at: Instant) {
        let grace = self.task.unknown_room_grace;
        let waited = event.received.age().saturating_sub(asked_at.elapsed());
        if waited >= grace {
            let reason = format!("unknown room {} (waited {grace:?})", event.change.token);
            self.dead_letters.push(event.dead_letter("unknown_room", reason));
        } else if waited >= UNKNOWN_ROOM_PATIENCE && self.parking.is_usable() {
            self.parking.push(Parked { event, obstacle: Obstacle::Unknown });
        } else {
            self.lanes.set_aside(event, Obstacle::Unknown, Duration::ZERO);
        }
    }

    /// Parks what is set aside if it takes more than a quarter of the deliveries that may be
    /// unacknowledged: each event, while the broker delivers one at a time.
    fn park_crowd(&mut self) {
        if self.parking.is_usable() {
            for event in self.lanes.take_crowd(self.subscription.capacity() / 4) {
                self.parking.push(event);
            }
        }
    }

    /// Tries the next lane of a slow room.
    fn try_slow(&mut self) {
        if self.trial.is_none() {
            let events = self.lanes.take_slow();
            self.trial = events.map(|events| Trial::new(self.task, events));
        }
    }

    pub(super) fn conclude_dead_letters(&mut self, letters: Vec<DeadLetter>, stored: bool) {
        if !stored {
            self.dead_letters.push_again(letters);
            return;
        }
        for DeadLetter { delivery, room, outcome, reason, mut span, .. } in letters {
            count(outcome, &mut span);
            let room = room.as_ref().map(tracing::field::display);
            tracing::warn!(room.token = room, reason, "event dead-lettered");
            self.done.push(delivery.tag);
        }
    }

    pub(super) fn conclude_parking(&mut self, parked: Vec<Parked>, stored: bool) {
        if !stored {
            for Parked { event, obstacle } in parked {
                // The lane of its room may be there already, and be tried.
                if let Some(event) = self.lanes.join(event) {
                    self.lanes.set_aside(event, obstacle, Duration::ZERO);
                }
            }
            return;
        }
        self.done.extend(parked.iter().map(Outgoing::tag));
        let late = parked.iter().filter(|each| each.obstacle != Obstacle::Unknown);
        if let Some(oldest) = late.min_by_key(|each| each.event.received) {
            let oldest = oldest.event.undone_for(oldest.obstacle);
            let parked = self.parked.take().filter(|(known, _until)| known.since < oldest.since);
            let (event, _until) = parked.unwrap_or((oldest, Instant::now()));
            self.parked = Some((event, Instant::now() + PARKED_FOR));
        }
    }

    pub(super) async fn acknowledge(&mut self) -> Result<(), End> {
        let acknowledged = if self.done.is_empty() {
            Ok(())
        } else {
            failpoints::reach(Point::AfterCommitBeforeAck);
            self.subscription.acknowledge(&self.done).await
        };
        if let Some(lost) = self.lost.take() {
            return Err(End::Lost(lost));
        }
        acknowledged?;
        if !self.done.is_empty() {
            self.done.clear();
            self.connection.works();
        }
        Ok(())
    }

    /// Reports the oldest event that is not acknowledged.
    pub(super) fn report(&self) {
        let ctx = &self.task.ctx;
        let oldest = [
            self.applying.clone(),
            oldest(&self.next_set).map(Event::undone),
            self.lanes.oldest(),
            self.trial.as_ref().and_then(|trial| trial.oldest.clone()),
            self.dead_letters.oldest(),
            self.parking.oldest(),
            self.parked.as_ref().map(|(event, _until)| event.clone()),
        ];
        let oldest = oldest.into_iter().flatten().min_by_key(|undone| undone.since);
        let oldest = oldest.map(|Undone { since, item }| {
            let age = TimeDelta::from_std(since.age()).unwrap_or(TimeDelta::MAX);
            Oldest { item, age }
        });
        ctx.health.set_oldest(Work::Deliveries, oldest);
        metrics::gauge!(crate::metrics::DELIVERIES_ASIDE)
            .set(u32::try_from(self.lanes.len()).unwrap_or(u32::MAX));
    }
}

/// Waits until a parked event no longer counts.
async fn expired(parked: Option<&(Undone, Instant)>) {
    match parked {
        Some((_event, until)) => sleep_until(*until).await,
        None => pending().await,
    }
}

fn report_set(change: &IncomingChange, replaced: Option<DateTime<Utc>>, is_logged: bool) {
    let (room, lobby) = (&change.token, change.lobby);
    if let Some(superseded) = replaced.filter(|&timer| Some(timer) != lobby.timer) {
        metrics::counter!(crate::metrics::SUPERSEDED).increment(1);
        log!(is_logged, room.token = %room, timer.due_at = %superseded, "timer superseded");
    }
    log!(
        is_logged,
        room.token = %room,
        version = change.order.version().milliseconds(),
        lobby.state = lobby.state.number(),
        timer.due_at = lobby.timer.map(tracing::field::display),
        "lobby set"
    );
}

fn count(outcome: &'static str, span: &mut Span) {
    metrics::counter!(crate::metrics::EVENTS, "outcome" => outcome).increment(1);
    span.set("lobbyd.outcome", &outcome);
}
