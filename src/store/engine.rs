//! Every flow of the store, once, for all databases.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    ColumnIndex, Connection, Decode, Encode, Executor, IntoArguments, Pool, Type, migrate::Migrate,
    pool::PoolOptions,
};
use tokio::time::{Instant, timeout};

use super::{
    Admin, Backlog, Fired, LockPolicy, Options, Outbox, Result, StoreError, Timers,
    dialect::Dialect,
    migration,
    rooms::Author,
    rows::{self, ResetMessage, ResetRow, instant_from_millis, instant_from_seconds, json},
    session::{self, Session},
};
use crate::domain::{
    Applied, Decision, EventId, LobbyChange, OutboxEvent, Reset, Version, commands::lobby_changes,
    decide,
};

/// An idle connection may have died without a sign, and each such one costs this wait.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// So there should not be many of them.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest wait for the goodbyes of the connections at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The store on one kind of database.
pub(super) struct SqlStore<D: Dialect> {
    pub(super) pool: Pool<D>,
    /// Longest time that one use of the database may take.
    pub(super) limit: Duration,
    renewal: Arc<PoolGeneration>,
}

/// When the pool was last told to connect in another way.
#[derive(Default)]
struct PoolGeneration(Mutex<Option<Instant>>);

impl PoolGeneration {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection of this age may have been begun before: to make one takes up to
    /// `limit`.
    fn outdates(&self, age: Duration, limit: Duration) -> bool {
        let renewed = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|renewed| age + limit > renewed.elapsed())
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Connects when it is first used.
    pub(super) fn open(
        pool: PoolOptions<D>,
        connect: <D::Connection as Connection>::Options,
        options: Options,
    ) -> Self {
        let renewal = Arc::new(PoolGeneration::default());
        let renewed = Arc::clone(&renewal);
        let pool = pool
            .max_connections(options.max_connections)
            .acquire_timeout(options.timeout)
            .idle_timeout(IDLE_TIMEOUT)
            // sqlx's own test of an idle connection has no bound.
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let outdated = renewed.outdates(metadata.age, options.timeout);
                Box::pin(async move {
                    let alive = timeout(PING_TIMEOUT, connection.ping()).await;
                    alive.map_err(|_elapsed| sqlx::Error::PoolTimedOut)?.map(|()| !outdated)
                })
            })
            .connect_lazy_with(connect);
        Self { pool, limit: options.timeout, renewal }
    }
}

#[async_trait]
impl<D> Timers for SqlStore<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Connection: Migrate,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<i64>: Encode<'v, D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<String>: Encode<'v, D>,
    usize: ColumnIndex<D::Row>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    async fn apply(&self, change: &LobbyChange, received: Version) -> Result<Applied> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        let applied = match session.lock_room(&change.token).await? {
            None => Applied::UnknownRoom,
            Some(room) => {
                match decide(&room, change, received) {
                    Decision::Stale => Applied::Stale,
                    Decision::LobbyNotSupported => Applied::LobbyNotSupported,
                    Decision::Set(version) => {
                        let now = instant_from_millis(received.milliseconds())?;
                        let effects = lobby_changes(&room, change.lobby, version, now);
                        // Whoever sent the event tells its clients.
                        session.write_rows(&room, &effects, &Author::system(), now).await?;
                        Applied::Set { replaced: room.lobby.scheduled() }
                    }
                }
            }
        };
        session.commit().await?;
        Ok(applied)
    }

    async fn fire_due(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        held: LockPolicy,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        let due = match held {
            LockPolicy::SkipLocked => D::STATEMENTS.due,
            LockPolicy::Wait => D::STATEMENTS.due_held,
        };
        let look = sqlx::query(due).bind(now.timestamp()).bind(i64::from(limit));
        let due = session.fetch_all(look).await?;
        let due = due.into_iter().map(rows::due_timer).collect::<Result<Vec<_>>>()?;
        if due.is_empty() {
            session.commit().await?;
            return Ok(Fired::default());
        }

        let resets: Vec<Reset> = due.iter().map(|timer| timer.reset(now)).collect();
        let rows: Vec<ResetRow> = due
            .iter()
            .zip(&resets)
            .map(|(timer, reset)| ResetRow {
                id: timer.room.number(),
                timer: timer.due_at.timestamp(),
                version: reset.version.milliseconds(),
            })
            .collect();
        let reset = sqlx::query(D::STATEMENTS.reset).bind(json(&rows));
        matched(session.execute(reset).await?, due.len(), "lobbyd_rooms")?;

        let attempt = u32::from(claimed_until.is_some());
        let announced = due
            .iter()
            .zip(&resets)
            .filter_map(|(timer, reset)| Some((timer, reset.announcement.as_ref()?)));
        let (messages, events): (Vec<ResetMessage>, Vec<OutboxEvent>) = announced
            .map(|(timer, announcement)| {
                let message =
                    ResetMessage { room_id: timer.room.number(), created_at: now.timestamp() };
                (message, rows::reset_event(timer, announcement, now, attempt))
            })
            .unzip();
        if !events.is_empty() {
            let insert = sqlx::query(D::STATEMENTS.insert_reset_messages).bind(json(&messages));
            matched(session.execute(insert).await?, messages.len(), "lobbyd_messages")?;
            session.insert_outbox(&events, claimed_until.unwrap_or(now)).await?;
        }
        session.commit().await?;
        Ok(Fired { cleared_timers: due.len() - events.len(), events })
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let look = sqlx::query(D::STATEMENTS.next_due);
        let next: Option<(i64,)> = session.fetch_optional(look).await?;
        session.finish();
        next.map(|(seconds,)| instant_from_seconds(seconds)).transpose()
    }
}

#[async_trait]
impl<D> Outbox for SqlStore<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Connection: Migrate,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<i64>: Encode<'v, D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<String>: Encode<'v, D>,
    usize: ColumnIndex<D::Row>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    async fn claim(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<Vec<OutboxEvent>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        let look = sqlx::query(D::STATEMENTS.available)
            .bind(now.timestamp_millis())
            .bind(i64::from(limit));
        let rows = session.fetch_all(look).await?;
        let events = rows.into_iter().map(rows::outgoing).collect::<Result<Vec<_>>>()?;
        if !events.is_empty() {
            let ids: Vec<&EventId> = events.iter().map(|event| &event.id).collect();
            let claim =
                sqlx::query(D::STATEMENTS.claim).bind(json(&ids)).bind(until.timestamp_millis());
            matched(session.execute(claim).await?, ids.len(), "lobbyd_outbox")?;
        }
        session.commit().await?;
        Ok(events)
    }

    async fn release(&self, ids: &[EventId], available_at: DateTime<Utc>) -> Result<()> {
        self.update_outbox(D::STATEMENTS.release, ids, available_at).await
    }

    async fn mark_published(&self, ids: &[EventId], now: DateTime<Utc>) -> Result<()> {
        self.update_outbox(D::STATEMENTS.mark_published, ids, now).await
    }

    async fn prune_published(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.prune(D::STATEMENTS.prune_published, before, limit).await
    }

    async fn prune_dead(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.prune(D::STATEMENTS.prune_dead, before, limit).await
    }
}

#[async_trait]
impl<D> Admin for SqlStore<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Connection: Migrate,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<i64>: Encode<'v, D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<String>: Encode<'v, D>,
    usize: ColumnIndex<D::Row>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    async fn migrate(&self) -> Result<()> {
        migration::migrate(&self.pool, self.limit).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let (now,) = session.fetch_one(sqlx::query(D::STATEMENTS.now)).await?;
        session.finish();
        instant_from_millis(now)
    }

    async fn backlog(&self) -> Result<Backlog> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let counts = session.fetch_one(sqlx::query(D::STATEMENTS.backlog)).await?;
        session.finish();
        let (pending, unusable, unpublished, oldest): (i64, i64, i64, Option<i64>) = counts;
        Ok(Backlog {
            timers_pending: pending.unsigned_abs(),
            timers_unusable: unusable.unsigned_abs(),
            outbox_pending: unpublished.unsigned_abs(),
            outbox_oldest: oldest.map(instant_from_millis).transpose()?,
        })
    }

    async fn fired_since(&self, since: DateTime<Utc>) -> Result<u64> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let count = sqlx::query(D::STATEMENTS.fired_since).bind(since.timestamp_millis());
        let (fired,): (i64,) = session.fetch_one(count).await?;
        session.finish();
        Ok(fired.unsigned_abs())
    }

    async fn prepare_all(&self) -> Result<()> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        for sql in D::STATEMENTS.all().into_iter().chain(D::shared().all()) {
            session.prepare(sql).await?;
        }
        // Not given back: prepared without values, PostgreSQL guesses their types, and a statement
        // that stays in the connection's cache would be run with values of others.
        drop(session);
        Ok(())
    }

    async fn try_url(&self, url: &str) -> Result<()> {
        let options = D::connect_options(url, self.limit)?;
        session::probe::<D>(&options, self.limit, D::STATEMENTS.next_due).await
    }

    fn use_url(&self, url: &str) -> Result<()> {
        self.pool.set_connect_options(D::connect_options(url, self.limit)?);
        self.renewal.note();
        Ok(())
    }

    async fn close(&self) {
        session::close(&self.pool, CLOSE_TIMEOUT).await;
    }
}

impl<D> SqlStore<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Type<D>,
    for<'v> String: Encode<'v, D> + Type<D>,
{
    /// Runs a statement over a set of events. It may match fewer: some may have been pruned since.
    async fn update_outbox(
        &self,
        sql: &'static str,
        ids: &[EventId],
        instant: DateTime<Utc>,
    ) -> Result<()> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let update = sqlx::query(sql).bind(json(ids)).bind(instant.timestamp_millis());
        session.execute(update).await?;
        session.finish();
        Ok(())
    }

    async fn prune(&self, sql: &'static str, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let delete = sqlx::query(sql).bind(before.timestamp_millis()).bind(i64::from(limit));
        let rows = session.execute(delete).await?;
        session.finish();
        Ok(rows)
    }
}

/// Checks that a guarded statement matched just the rows that were locked for it. Anything else
/// undoes the transaction.
pub(super) fn matched(rows: u64, expected: usize, table: &'static str) -> Result<()> {
    if usize::try_from(rows) == Ok(expected) {
        return Ok(());
    }
    Err(StoreError::Conflict { table, rows, expected })
}
