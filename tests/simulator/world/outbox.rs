//! The outbox of the simulated database.

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use lobbyd::{
    domain::{EventId, OutboxRow},
    store::{Available, ClaimedRows, Division, Outbox, Pending, Result},
};

use super::{
    Bug, State,
    store::{SimulatedStore, rejected},
    tables::{OutboxEntry, Progress, Tables},
};

impl SimulatedStore {
    /// Changes rows of the outbox that are locked, unless the database refuses one of them.
    async fn change_events<T>(
        &self,
        ids: &[EventId],
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T> {
        self.commit(|state| {
            if state.tables.refuses_events(ids) { Err(rejected()) } else { Ok(change(state)) }
        })
        .await
    }
}

#[async_trait]
impl Outbox for SimulatedStore {
    async fn claim(
        &self,
        available: Available<'_>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<ClaimedRows> {
        self.reach().await?;
        let (ids, is_full, _locks) = {
            let state = &mut *self.0.state.lock();
            let limit = usize::try_from(limit).unwrap();
            let mut rows = state.tables.available(available);
            rows.truncate(limit);
            let is_full = rows.len() >= limit;
            let (mut ids, mut events) = (Vec::new(), 0);
            let found = rows.len();
            for (id, size) in rows {
                if !ids.is_empty() && events + size > limit {
                    break;
                }
                events += size;
                ids.push(id);
            }
            let is_cut = ids.len() < found;
            (ids.clone(), is_full || is_cut, self.lock_events(state, ids))
        };
        if ids.is_empty() {
            return Ok(ClaimedRows::default());
        }
        let rows = self.change_events(&ids, |state| {
            let claim = |id: &EventId| {
                let entry = state.tables.outbox.get_mut(id).unwrap();
                (entry.available_at, entry.attempts) = (whole(until), entry.attempts + 1);
                if state.bug == Some(Bug::MarksFirst) {
                    entry.published_at = Some(until);
                    state.history.marked(&entry.events);
                }
                let (events, attempt) = (entry.events.clone(), entry.attempts);
                OutboxRow { id: id.clone(), events, attempt }
            };
            ids.iter().map(claim).collect()
        });
        Ok(ClaimedRows { rows: rows.await?, is_full })
    }

    async fn first_available(&self, available: Available<'_>) -> Result<Option<EventId>> {
        let first = |state: &State| state.tables.available(available).into_iter().next();
        Ok(self.read(first).await?.map(|(id, _events)| id))
    }

    async fn release(
        &self,
        ids: &[EventId],
        claimed_until: DateTime<Utc>,
        available_at: DateTime<Utc>,
    ) -> Result<()> {
        self.change_events(ids, |state| {
            for id in ids {
                let entry = state.tables.outbox.get_mut(id);
                let claimed = entry.filter(|entry| {
                    entry.published_at.is_none() && entry.available_at == whole(claimed_until)
                });
                if let Some(entry) = claimed {
                    entry.available_at = whole(available_at);
                }
            }
        })
        .await
    }

    async fn mark_published(&self, ids: &[EventId], now: DateTime<Utc>) -> Result<()> {
        self.change_events(ids, |state| {
            for id in ids {
                if let Some(entry) = state.tables.outbox.get_mut(id) {
                    entry.published_at.get_or_insert(now);
                    state.history.marked(&entry.events);
                }
            }
        })
        .await
    }

    async fn divide(
        &self,
        row: &EventId,
        claimed_until: DateTime<Utc>,
        division: Division,
    ) -> Result<()> {
        self.commit(|state| {
            if state.tables.take_claimed(row, whole(claimed_until)).is_none() {
                return Ok(());
            }
            let Division { confirmed, refused, others, attempts, now, retry_at, others_at } =
                division;
            let progress =
                |time| Progress { attempts, available_at: whole(time), published_at: None };
            state.history.marked(&confirmed);
            let published = Progress { published_at: Some(now), ..progress(now) };
            state.tables.insert_events(confirmed, published);
            state.tables.insert_each(refused, progress(retry_at));
            state.tables.insert_events(others, progress(others_at));
            Ok(())
        })
        .await
    }

    async fn take_apart(&self, row: &EventId) -> Result<bool> {
        self.commit(|state| {
            let tables = &mut state.tables;
            let several = tables.outbox.get(row).filter(|entry| entry.events.len() > 1);
            let Some(available_at) = several.map(|entry| entry.available_at) else {
                return Ok(false);
            };
            let Some(entry) = tables.take_claimed(row, available_at) else { return Ok(false) };
            let progress = Progress { attempts: entry.attempts, available_at, published_at: None };
            tables.insert_each(entry.events, progress);
            Ok(true)
        })
        .await
    }

    async fn pending(&self, except: &[EventId], attempts: u32) -> Result<Option<Pending>> {
        self.read(|state| {
            if state.bug == Some(Bug::HidesEvents) {
                return None;
            }
            let last_available =
                state.tables.unpublished().map(|(_id, entry)| entry.available_at).max()?;
            let others = || state.tables.unpublished().filter(|(id, _)| !except.contains(id));
            let is_refused = |entry: &OutboxEntry| entry.attempts >= attempts;
            let (oldest, entry) = others()
                .min_by_key(|(_id, entry)| (is_refused(entry), entry.events[0].created_at))?;
            let refused = others().filter(|(_id, entry)| is_refused(entry));
            let refused = refused.map(|(_id, entry)| entry.events.len()).sum::<usize>();
            Some(Pending {
                oldest: oldest.clone(),
                room: entry.events[0].token.clone(),
                created_at: entry.events[0].created_at,
                is_refused: is_refused(entry),
                refused: u64::try_from(refused).unwrap(),
                last_available,
            })
        })
        .await
    }

    async fn end_claims(
        &self,
        now: DateTime<Utc>,
        latest: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64> {
        self.commit(|state| {
            let tables = &mut state.tables;
            let entries = tables
                .outbox
                .values_mut()
                .filter(|entry| entry.published_at.is_none() && entry.available_at > whole(latest));
            let mut ended = 0;
            for entry in entries.take(usize::try_from(limit).unwrap()) {
                (entry.available_at, ended) = (whole(now), ended + 1);
            }
            Ok(ended)
        })
        .await
    }

    async fn prune_published(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.commit(|state| {
            let is_old = |entry: &OutboxEntry| entry.published_at.is_some_and(|at| at < before);
            Ok(prune(&mut state.tables, limit, is_old))
        })
        .await
    }

    async fn prune_dead(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.commit(|state| {
            let is_dead = |entry: &OutboxEntry| {
                entry.published_at.is_none() && entry.events[0].created_at < before
            };
            Ok(prune(&mut state.tables, limit, is_dead))
        })
        .await
    }
}

fn prune(tables: &mut Tables, limit: u32, is_old: impl Fn(&OutboxEntry) -> bool) -> u64 {
    let old = tables.outbox.iter().filter(|(_id, entry)| is_old(entry)).map(|(id, _)| id.clone());
    let old: Vec<EventId> = old.take(usize::try_from(limit).unwrap()).collect();
    for id in &old {
        tables.outbox.remove(id);
    }
    u64::try_from(old.len()).unwrap()
}

/// As a column of milliseconds holds it.
fn whole(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(3)
}
