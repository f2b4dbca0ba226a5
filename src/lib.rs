//! lobbyd opens the lobby of every webinar room on time.
//!
//! # Overview
//!
//! A room with a lobby and a timer is a row of the database, and that row is the schedule. Two
//! tasks of the worker act on it. The [`LobbyConsumer`](tasks::LobbyConsumer) receives lobby
//! changes and applies them to rows. The [`TimerTask`](tasks::TimerTask) sleeps until the next
//! timer is due. A timer that *fires* *resets* its room: lobby and timer are removed, the room is
//! *open*, and the event about it is written to the outbox in the same transaction. The
//! [`OutboxRelay`](tasks::OutboxRelay), which runs in every process, publishes the events of the
//! outbox until the broker has confirmed them.
//!
//! The HTTP API runs in the same process or in others. [`http::api`] speaks Talk's dialect,
//! [`rooms`] executes commands and answers queries, and [`domain::commands`] decides. Its changes
//! go through the outbox as well. Every API process receives them through
//! [`CacheSync`](cache::CacheSync), whichever process made them.
//!
//! # One lobby change, from delivery to announcement
//!
//! 1. The [`Bus`](bus::Bus) delivers messages: those that are there, up to the prefetch.
//!    [`bus::cloudevents`] parses each into an [`IncomingChange`](domain::IncomingChange), or says
//!    why it is malformed, which becomes the reason of a dead letter.
//! 2. [`Timers::apply`](store::Timers::apply) applies the set in one transaction. It locks the
//!    rooms without waiting, calls [`decide_lobby_change`](domain::decide_lobby_change) for each
//!    change in order, writes the lobbies with their chat messages and the events about them, and
//!    commits. Then the consumer wakes the timer task, passes the events to the relay, claimed for
//!    this process if it keeps up, and acknowledges the deliveries. What is delivered during the
//!    transaction is parsed meanwhile, and is the next set. An event whose room is locked or slow waits in a lane of its room; one whose room
//!    does not exist waits in the retry queue of the broker, for `unknown_room_grace`. Neither
//!    holds up another event.
//! 3. When the timer is due, [`Timers::fire_due`](store::Timers::fire_due) locks the due rooms that
//!    come next, resets them, adds chat messages, and writes the events with their ids and versions
//!    to the outbox, claimed for this process; more than 64 of them share a row. The timer task
//!    passes them to the relay through the queue in [`relay`], and goes on behind the last room of
//!    the batch, two batches at once, until nothing is due; their events stay in the outbox for the
//!    relay. In such a sweep, the oldest rooms alternate with those that have become due since it
//!    began. For its first two seconds, the relay publishes what it is passed, and searches the
//!    outbox for nothing else.
//! 4. The relay publishes the events, waits for the publisher confirms, and marks the events as
//!    published; several batches are under way at a time. A row of several events is claimed and
//!    marked as one, and divided if not all of them are confirmed. If the process dies before that,
//!    the claim expires and another relay publishes them.
//!
//! # A fault in one of these steps
//!
//! A batch that the database refuses, or that takes too long, is divided until the one item is
//! found that is to blame. That item waits by itself and is tried again at a growing interval, is
//! counted, and has an alert; a refused event becomes a dead letter. Everything else goes on. A row of
//! the outbox that is to blame is first divided into its events.
//!
//! | fault | what waits | where it shows |
//! | --- | --- | --- |
//! | a due room that the database does not reset | this room | `lobbyd_timers_refused` |
//! | a due room that is locked | this room, for its lock | part `timers` of `/readyz` |
//! | an event that cannot be applied | nothing: dead letter | `lobbyd_events_received_total` |
//! | an event whose room is locked or slow | the events of this room | `lobbyd_deliveries_aside` |
//! | a message that lapin cannot parse | the queue, until it is removed | part `consumer` |
//! | an event that no queue takes | the events that were returned | `lobbyd_outbox_refused` |
//! | a confirm that cannot be stored | this event, for its claim | `lobbyd_outbox_refused` |
//! | a database that answers no commit | all writes | part `database` |
//! | a room that Talk does not open | this room | `lobbyd_talk_refused` |
//! | a Talk that cannot be asked | the rooms of Talk | part `talk` |
//! | a room that a signaling server refuses | this room, for this server | `lobbyd_signaling_refused` |
//! | a signaling server that cannot be told | the rooms for this server | part `signaling` |
//!
//! Each task reports the age of its oldest item that is not done to [`health`], from the database
//! or the broker, not from the result of its last call. `/readyz` is red while one is older than
//! `ops.overdue_after`.
//!
//! # One PUT lobby, from request to response
//!
//! 1. `set_lobby` in `http/api/webinar.rs` turns the request into a
//!    [`Command`](domain::commands::Command) for
//!    [`RoomService::change`](rooms::RoomService::change).
//! 2. [`Rooms::change`](store::Rooms::change) locks the room, reads what the decision depends on,
//!    calls [`commands::decide`](domain::commands::decide) (here the rule in
//!    `domain/commands/settings.rs`), and writes the [`Changes`](domain::commands::Changes) or
//!    returns the [`Refusal`](domain::commands::Refusal). Room, chat message and events are one
//!    transaction, in `store/commands.rs` and `store/changes.rs`.
//! 3. The transaction returns the room and the caller's attendee record. They go into the cache,
//!    which wakes the requests of this process that wait for the room. The relay is woken to
//!    publish `room.updated` for the other processes, and `lobby.changed`, which a worker finds
//!    stale: it only wakes the timer task, which otherwise looks once a second.
//! 4. The handler turns the same values into the response. Nothing is read again.
//!
//! # One poll, from request to response
//!
//! 1. A client requests a room with the `ETag` that it has, and `Prefer: wait=50`.
//! 2. [`RoomService::view_when`](rooms::RoomService::view_when) takes room and attendee record from
//!    the [`RoomCache`](cache::RoomCache), which loads them if it does not have them. If the client
//!    has this state already, the request waits.
//! 3. A process changes the room: one transaction locks it, decides, writes the changes, and puts
//!    the events into the outbox. The relay of that process publishes `room.updated`.
//! 4. Every API process receives the update. If its version is newer, the room is read once for all
//!    waiting requests. [`RoomView`](domain::RoomView) selects what each viewer may see. A request
//!    whose entity tag has changed is answered with 200; one whose wait expires, with 304. Changes
//!    that other programs make with SQL are found by comparing versions with the database.
//!
//! A client that follows the room by an event stream waits in the same way, and goes on: a
//! [`Follower`](rooms::Follower) looks after each change, at most five times a second, and the stream
//! sends the room if its viewer sees another one. What all viewers of a kind see is written once.
//!
//! # One room of a Nextcloud Talk, from its timer to its announcement
//!
//! Beside a [Talk](nextcloud::TalkClient), lobbyd changes no row: Talk resets a room when it is read, and
//! [`TalkTask`](tasks::TalkTask) is the reader. Every second it reads from Talk's table what will be due
//! within five, records that in lobbyd's own database, and sleeps until each instant by the clock of
//! Talk's database. Then it reads the row, requests the room, and reads the row again: that alone says
//! whether the room is open. The end of the record and the event about the room are one transaction
//! in lobbyd's own database, so a crash in between neither loses an announcement nor repeats it. A
//! room that fails is tried again by itself; an answer that stands for all rooms stops the requests.
//! An advisory lock in Talk's database lets one instance ask at a time.
//!
//! # One change, to the clients of a signaling server
//!
//! The transaction of a change also records its rooms for the [signaling servers](nextcloud::SignalingClient)
//! of Talk, if there are any. [`SignalingTask`](tasks::SignalingTask) makes of that one row for each
//! server and room, and tells each server the rooms as they are then, until it has accepted them. Rows
//! that it locks are never those of a room, an event or a timer.
//!
//! # Promises
//!
//! Tests refer to them by number.
//!
//! - **P1 Never early.** A room is not reset before its timer, by the database's clock.
//! - **P2 Exactly once.** One setting of a timer resets its room at most once.
//! - **P3 Always announced.** Each reset is published at least once, always with the same id.
//! - **P4 The newest setting wins.** A timer that was moved or removed never resets the room.
//! - **P5 Bad input is harmless.** A malformed event changes nothing, and neither does a duplicate,
//!   stale or reordered one.
//! - **P6 Nothing is lost.** An event is acknowledged after its effect is durable, and the room's
//!   row is the schedule.
//! - **P7 Outages delay work and lose none.**
//! - **P8 Cost follows what is due**, not what is pending, nor what can never fire.
//! - **P9 A fault stops only itself.** What the database, the broker or a destination refuses
//!   delays nothing else.
//! - **P10 Never green while down.** Health and metrics follow from the work that is not done.
//!
//! # Code map
//!
//! | module | responsible for |
//! | --- | --- |
//! | [`domain`] | types and rules; pure |
//! | [`store`] | rows and transactions; the only SQL |
//! | [`bus`] | messages to and from the broker; the only AMQP and CloudEvents |
//! | [`nextcloud`] | requests to a Nextcloud Talk and to its signaling servers; the only HTTP clients |
//! | [`cache`] | rooms as this API process last read them, kept current by updates |
//! | [`auth`] | passwords, logins, and how often they may be guessed |
//! | [`rooms`] | commands, queries, long polls and event streams behind the API |
//! | [`tasks`] | the tasks of the worker, and the relay of every process |
//! | [`relay`] | the queue between code that writes events and the task that publishes them |
//! | [`http`] | the API in Talk's dialect, the ops listener, and pages for people; the only axum |
//! | [`app`] | composes the parts, starts and stops them, reloads the configuration |
//! | [`config`] | defaults, file and environment |
//! | [`clock`] | the database's time between two samples of it |
//! | [`logging`], [`metrics`] | the log; names, help texts and first values of the metrics |
//! | [`traces`] | spans from the incoming to the outgoing event; the only OpenTelemetry |
//! | [`health`], [`systemd`] | which components work; what systemd is notified of |
//! | [`backoff`], [`supervisor`] | waits between attempts; how the process ends |
//! | `failpoints` | where a test has the process abort; does nothing in a release |
//!
//! Imports go one way: `main → cli → app → {http, tasks} → rooms/cache → {store, bus} → domain`.
//! The test `house_rules` reads the source and keeps it so; it has the complete list of layers.
//!
//! # Invariants
//!
//! - No clock of this machine decides what is due. The database's clock does: it is sampled before
//!   the transaction, and the sample is passed into it.
//! - An acknowledgement follows a commit; the mark as published follows a confirm.
//! - Every wait is bounded, except waiting for work and for a lost peer to come back.
//! - A connection that did not answer in time is closed, never reused, unless the broker has
//!   blocked it. A connection with an unanswered commit is kept until a commit is answered, because
//!   the server would keep it too.
//! - Every batch can be taken apart, and no loop waits for a lock, a confirm or a single item while
//!   it could do other work.
//! - Timers are not held in memory.
//! - Commands, chat and calls are authorised against the database. The cache answers polls, wakes
//!   waiting requests, and refuses a room early that the caller cannot see.
//! - Reading never changes a room.
//! - Nothing is spawned that the [`supervisor`] does not wait for, except the bounded return of a
//!   database connection, the last two milliseconds of a wait for a timer, password hashes, and
//!   what the libraries spawn themselves.
//!
//! # Questions
//!
//! **Why is there no table of timers, and no lease on a timer?** The timer is in the room's row, so
//! nothing can disagree with it. Resetting a room, clearing its timer and writing the event is one
//! local transaction: a crash rolls it back, and the row is still due. Only publishing has an
//! effect outside of the database, so only the outbox has claims.
//!
//! **Why does a reset take the next version instead of the time?** A moderator can change the lobby
//! just before the reset, with an event that arrives just after it. If the reset took its time as
//! version, that change would be stale. The reset takes the previous version plus one, so the
//! change is newer and wins.
//!
//! **Why does lobbyd announce a change that came in as an event?** So that a consumer can rely on
//! `room.updated` alone, and so that the caches of all API processes are kept current by one kind
//! of event, which lobbyd alone publishes.
//!
//! **Why does a consumer begin with one delivery at a time?** A message that its AMQP library
//! cannot parse ends the connection, or the process, before lobbyd sees it. The broker counts that
//! as a delivery of every message that was unacknowledged, and after some deliveries it removes
//! them. With one delivery at a time, only the culprit is counted. An event that has to wait is put
//! into the retry queue at once then. What was delivered a few times is taken for healthy, so that
//! workers that are killed again and again go on at full pace.
//!
//! **Why do API processes listen to an exchange of their own?** Anybody who may publish lobby
//! changes could otherwise send a message that ends every API process. Only lobbyd publishes to
//! `events.updates_exchange`, which is bound to the exchange of the subscribers.
//!
//! **Why do unknown rooms wait at the broker?** An event may overtake the commit that creates its
//! room. Waiting deliveries count against the prefetch, so many of them would stop the consumer.
//! The retry queue returns them after a second, with the time of their first receipt, and with their
//! order, so that they do not override what has changed since.
//!
//! **Why does every announced change of a room take a version, not only a change of the lobby?**
//! Processes use it to tell whether an update is newer than their cache, in any order of arrival.
//!
//! **Why does the API have a runtime and a connection pool of its own?** Its requests come in any
//! number. They may wait for each other, and must not make a timer wait. In a process that also opens
//! rooms, its threads have a lower priority.
//!
//! **Why one store for three databases, with a table of statements?** Copies of a store drift
//! apart, and neither a query builder nor sqlx's `Any` driver covers what differs here: locking,
//! sets of rows, timestamps. A statement that is missing for one database does not compile, and
//! each text can be pasted into a console.
//!
//! **Why do many events share a row of the outbox?** A herd of timers would otherwise write a row
//! with three indexes for each room, and change it again for each claim and confirm: more work than
//! opening the rooms. Few events have a row each, where an administrator finds them by their room.
//! A row that the database refuses to claim or to mark is taken apart, so that only the event that
//! is to blame waits.
//!
//! **Why are sets passed as JSON?** An array of rows is one parameter in all three databases, so
//! the number of statements does not depend on the size of a batch.
//!
//! **Why does a trace have the id of its event?** A room opens hours after its timer was set, and
//! its event may be published by another process after a crash. The root span of the trace is
//! derived from the id, which every process reads from the outbox.
//!
//! **Why is a new URL tried before it is used?** Otherwise a typo in a reloaded URL would keep
//! every room closed.
//!
//! **Why is lapin's recovery off?** It leaves a pending confirm unanswered for as long as the
//! broker is unavailable. A new connection is cheap, and its setup is in one place.

pub mod app;
pub mod auth;
pub mod backoff;
pub mod bus;
pub mod cache;
pub mod clock;
pub mod config;
pub mod domain;
mod failpoints;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod nextcloud;
pub mod relay;
pub mod rooms;
pub mod store;
pub mod supervisor;
pub mod systemd;
pub mod tasks;
pub mod traces;
