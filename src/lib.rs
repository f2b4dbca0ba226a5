//! lobbyd opens the lobby of every webinar room on time.
//!
//! # Bird's eye view
//!
//! A room with a closed lobby and a timer is a row of the database, and that row is the schedule.
//! Three loops work around it. The [`LobbyConsumer`](tasks::LobbyConsumer) takes in lobby changes and applies
//! them to rows. The [`TimerTask`](tasks::TimerTask) sleeps until the next timer is due, resets
//! all rooms that are, and writes their events to the outbox in the same transaction. The
//! [`OutboxRelay`](tasks::OutboxRelay) publishes the outbox until the broker has confirmed it.
//!
//! Beside them, in the same process or in others, the HTTP API lets people act on rooms and poll
//! them. [`http::api`] speaks Talk's dialect, [`rooms`] answers in terms of the domain, and
//! [`domain::commands`] decides. What was changed goes through the outbox as well, and each API hears
//! it by its [`CacheSync`](cache::CacheSync) loop, whoever changed it.
//!
//! # One lobby change, from delivery to announcement
//!
//! 1. A delivery comes through the [`Bus`](bus::Bus); [`bus::cloudevents`] makes a
//!    [`LobbyChange`](domain::LobbyChange) of it, or says why it is none.
//! 2. [`Timers::apply`](store::Timers::apply) locks the room, asks [`decide`](domain::decide), writes
//!    what it says, and commits. Then the delivery is acknowledged, and the timer loop is rung.
//! 3. At the instant [`Timers::fire_due`](store::Timers::fire_due) resets the room, if it still has
//!    that timer, and writes the event with its id and version. The batch goes to the relay.
//! 4. The relay publishes it, waits for the confirm, and notes it. Had the process died in between,
//!    the claim on the event would end by itself, and another relay would publish it.
//!
//! # One poll, from request to answer
//!
//! 1. A client asks for a room with the `ETag` that it has, and `Prefer: wait=60`.
//! 2. [`rooms::RoomService::view_when`](rooms::RoomService::view_when) takes the room as this process last saw
//!    it. No statement is sent; if it looks as the client knows it, the request is held.
//! 3. Some process changes the room: one transaction locks it, asks the rules, writes the effects,
//!    and puts the events in the outbox. Its relay publishes `room.updated`.
//! 4. Every API hears it. If its version is news, the room is read once, for all who wait, and each
//!    of them gets what he may see. Whose time is over before that gets 304.
//!
//! # Promises
//!
//! The tests name them by their numbers.
//!
//! - **P1 never early.** A room is not reset before its timer, by the database's clock.
//! - **P2 exactly once.** One setting of a timer resets its room at most once.
//! - **P3 always announced.** Each reset is published at least once, always with the same id.
//! - **P4 the newer setting wins.** A timer that was moved or removed never resets the room.
//! - **P5 harmless input.** A duplicate, stale, reordered or malformed event changes nothing.
//! - **P6 nothing is lost.** An event is acknowledged after its effect is durable, and the room's
//!   row is the schedule.
//! - **P7 outages delay, they do not lose.**
//! - **P8 cost follows what is due**, not what is pending.
//!
//! # Code map
//!
//! | module | answers for |
//! | --- | --- |
//! | [`domain`] | the rules, pure |
//! | [`store`] | rows and transactions; the only SQL |
//! | [`bus`] | bytes to and from the broker; the only AMQP and CloudEvents |
//! | [`auth`] | passwords, and how often they may be guessed |
//! | [`rooms`] | what the API may ask, and rooms as pollers see them |
//! | [`tasks`] | the loops |
//! | [`relay`] | the queue from them to the outbox relay |
//! | [`http`] | the API's dialect and the ops listener; the only axum |
//! | [`app`] | connects all of it |
//! | [`clock`] | the database's time between two looks at it |
//! | [`config`] | defaults, file and environment |
//! | [`logging`], [`metrics`] | logs and the names of metrics |
//! | [`traces`] | spans, from the event in to the event out; the only OpenTelemetry |
//! | [`health`] | what is reached at the moment |
//! | [`systemd`] | what systemd is told |
//! | [`backoff`], [`supervisor`] | waits between attempts; the end of the process |
//!
//! # Invariants
//!
//! - **Invariant:** no time of this machine decides what is due. The database's does, by a sample
//!   that is taken before the transaction and passed into it.
//! - **Invariant:** an acknowledgement follows a commit, a mark as published follows a confirm.
//! - **Invariant:** every wait has a bound, but for the waits for work and for a peer's return.
//! - **Invariant:** a connection that did not answer in time is closed, never reused.
//! - **Invariant:** timers are not held in memory.
//! - **Invariant:** who acts, reads the chat or sees a call is checked against the database, never
//!   against what this process last saw; that is for polls of rooms alone.
//! - **Invariant:** reading never changes a room.
//! - **Invariant:** nothing is spawned that [`supervisor`] does not wait for, except the bounded
//!   return of a database connection, and what lapin, the cron scheduler and the exporter's HTTP
//!   client run by themselves.
//! - **Invariant:** `domain` knows nobody, and `worker`, `http` and `events` do not know each
//!   other's libraries; a test reads the source and keeps it so.
//!
//! # Why is it so?
//!
//! **Why is there no table of timers, and no lease on one?** The timer is in the room's row, so
//! nothing can disagree with it. Resetting a room, dropping its timer and writing the event is one
//! local transaction: a crash rolls it back, and the row is still due. Only publishing has an
//! effect outside, so only the outbox has claims.
//!
//! **Why does a reset take the next version and not the time?** A setting that a moderator made
//! just before the reset, and whose event arrives just after it, has a version before the reset's
//! time. With the next version after the one that was reached it is still newer, and wins.
//!
//! **Why does lobbyd not announce a change that came in as an event?** Whoever sent it made the
//! change, and tells its clients. lobbyd announces what it does itself. Its own pollers see the change
//! all the same: each API hears the event on its way to a worker, and looks until it is applied.
//!
//! **Why does every change of a room take a version, and not only that of a lobby?** By it a process
//! tells what it has seen from what is news to it, in whatever order updates arrive.
//!
//! **Why does the API have a pool of its own?** Its requests come in any number. They may wait for
//! each other, and must not make a timer wait.
//!
//! **Why one engine with tables of statements?** Copies of a store drift apart; a query builder or
//! sqlx's `Any` does not know what differs here (locking, sets, instants). A struct without default
//! makes the compiler ask each database for each statement, and the text can be pasted into a
//! console.
//!
//! **Why sets as JSON?** An array of rows is one parameter in all three databases, so a batch is
//! three statements, whatever its size.
//!
//! **Why does a trace have the id of its event?** A room opens hours after its timer was set, and its
//! event may be published by another process, after a crash. So the place where its trace begins
//! follows from what all of them know. Only the link back, to the event that set the timer, is stored.
//!
//! **Why is a new secret tried before it is used?** A slip of the pen would else close every room's
//! way to open, at the moment of a reload, when nobody expects it.
//!
//! **Why is lapin's recovery off?** It leaves a confirm that was pending without an answer for as
//! long as the broker is away. A new connection is cheap, and what it has to know is in one place.

pub mod app;
pub mod auth;
pub mod backoff;
pub mod bus;
pub mod cache;
pub mod clock;
pub mod config;
pub mod domain;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod relay;
pub mod rooms;
pub mod store;
pub mod supervisor;
pub mod systemd;
pub mod tasks;
pub mod traces;
