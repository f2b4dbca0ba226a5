//! `lobbyd status`: on one screen, what works and which work is not done.
//!
//! Everything is read from its source: the servers, the schedule, the outbox. It changes nothing, and
//! declares nothing at the broker.

use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use lobbyd::app;
use lobbyd::bus::QueueDepth;
use lobbyd::config::{Config, Loaded};
use lobbyd::domain::TimerKey;
use lobbyd::logging;
use lobbyd::store::{Database, HistoryFilter};
use serde::Serialize;

use super::access::open_database;
use super::history::lag;
use super::output::{self, Cell, Format, Mood, Table, Zone};
use super::{health, print};

/// Timers and events are counted up to this number.
const COUNTED: u32 = 10_000;

/// So many attempts take a minute.
const REFUSED_ATTEMPTS: u32 = 6;

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status 0 if everything works; otherwise 1, with the reasons on standard error. No process at \
ops.listen is no fault: it may run elsewhere. `lobbyd rooms TOKEN` says why a room is not open.")]
pub(super) struct StatusCommand {
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    healthy: bool,
    problems: Vec<String>,
    servers: Vec<Server>,
    process: Process,
    queues: Vec<Queue>,
    schedule: Option<Schedule>,
    outbox: Option<Outbox>,
    /// Of the timers that fired in the last hour.
    lag: Option<Lag>,
}

#[derive(Debug, Serialize)]
struct Server {
    name: &'static str,
    url: String,
    /// `None` if it answers.
    error: Option<String>,
}

/// The process at `ops.listen`.
#[derive(Debug, Default, Serialize)]
struct Process {
    address: String,
    /// `None` if none answers.
    ready: Option<bool>,
    answer: String,
}

#[derive(Debug, Serialize)]
struct Queue {
    name: String,
    /// `None` if there is no such queue.
    messages: Option<u32>,
    consumers: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Schedule {
    next: Option<Due>,
    /// Number of timers that are due and have not fired.
    overdue: u64,
    first_overdue: Option<Due>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Due {
    token: String,
    due_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outbox {
    pending: u64,
    /// Those of them that were tried for a minute without success.
    refused: u64,
    oldest_at: Option<DateTime<Utc>>,
    oldest_token: Option<String>,
}

/// In milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lag {
    timers: usize,
    p50: i64,
    p95: i64,
    p99: i64,
    max: i64,
}

impl StatusCommand {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        let database = open_database(loaded, "lobbyd status")?;
        let mut status = Status::default();
        status.ask_database(&*database, config).await;
        status.ask_broker(config).await?;
        status.ask_talk(config).await?;
        status.ask_process(config).await;
        let now = match database.now().await {
            Ok(now) => {
                if let Err(error) = status.read_work(&*database, config, now).await {
                    status.problems.push(logging::causes(error.as_ref()));
                }
                Some(now)
            }
            Err(_reported) => None,
        };
        database.close().await;
        status.healthy = status.problems.is_empty();
        if self.format.json {
            output::print_json(&status)?;
        } else {
            print(&status.table(now).render())?;
        }
        if status.healthy { Ok(()) } else { bail!("{}", status.problems.join("; ")) }
    }
}

impl Status {
    fn add_server(&mut self, name: &'static str, url: String, answer: Result<(), String>) {
        let error = answer.err();
        if let Some(error) = &error {
            self.problems.push(format!("{name} {url}: {error}"));
        }
        self.servers.push(Server { name, url, error });
    }

    async fn ask_database(&mut self, database: &dyn Database, config: &Config) {
        for url in config.database.url.iter() {
            let existing = url.expose().replace("mode=rwc", "mode=rw");
            let answer = database.try_urls(&[&existing]).await;
            let answer = answer.map_err(|error| logging::causes(&error));
            self.add_server("database", url.redacted(), answer);
        }
    }

    async fn ask_broker(&mut self, config: &Config) -> anyhow::Result<()> {
        if config.events.url.is_in_process() {
            return Ok(());
        }
        let bus = app::open_bus(config)?;
        let mut depths = None;
        for url in config.events.url.iter() {
            bus.use_urls(&[url.expose()])?;
            let answer = bus.queue_depths().await.map(|found| depths = Some(found));
            let answer = answer.map_err(|error| logging::causes(&error));
            self.add_server("broker", url.redacted(), answer);
        }
        bus.close().await;
        for QueueDepth { queue, content } in depths.unwrap_or_default() {
            let is_consumed = queue == config.events.queue;
            match content {
                None => self.problems.push(format!("there is no queue {queue}")),
                Some(content) if is_consumed && content.consumers == 0 => {
                    self.problems.push(format!("no worker consumes the queue {queue}"));
                }
                Some(_content) => {}
            }
            let (messages, consumers) =
                (content.map(|content| content.messages), content.map(|content| content.consumers));
            self.queues.push(Queue { name: queue, messages, consumers });
        }
        Ok(())
    }

    async fn ask_talk(&mut self, config: &Config) -> anyhow::Result<()> {
        if config.talk.url.is_some() {
            for (key, answer) in app::check_talk(config, None).await? {
                self.add_server("talk", key.to_owned(), answer.map(drop));
            }
        }
        Ok(())
    }

    async fn ask_process(&mut self, config: &Config) {
        let address = config.ops.listen.to_string();
        self.process = match health::readiness(config).await {
            Ok(answer) => Process { address, ready: Some(true), answer },
            Err(error) => {
                let answered = error.downcast_ref::<health::NotReady>();
                if let Some(health::NotReady { problems, .. }) = answered {
                    self.problems
                        .push(format!("the process at {address} is not ready: {problems}"));
                }
                let ready = answered.map(|_problems| false);
                let answer = answered.map_or_else(
                    || "no process answers".to_owned(),
                    |answered| answered.problems.clone(),
                );
                Process { address, ready, answer }
            }
        };
    }

    /// Reads which work is not done.
    async fn read_work(
        &mut self,
        database: &dyn Database,
        config: &Config,
        now: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let overdue_after = TimeDelta::from_std(config.ops.overdue_after)?;
        let first = database.next_due(None, &[]).await?;
        let first_overdue = first.filter(|timer| timer.key.due_at <= now);
        let next = database.next_due(Some(TimerKey::last_at(now)), &[]).await?;
        let overdue = database.count_due(now, COUNTED).await?;
        if let Some(timer) = &first_overdue
            && now - timer.key.due_at > overdue_after
        {
            let late = output::duration(now - timer.key.due_at);
            self.problems.push(format!(
                "room {} is {late} overdue: lobbyd rooms {} says why",
                timer.token,
                output::argument(timer.token.as_str())
            ));
        }
        let due = |timer: lobbyd::domain::PendingTimer| Due {
            token: timer.token.to_string(),
            due_at: timer.key.due_at,
        };
        self.schedule =
            Some(Schedule { next: next.map(due), overdue, first_overdue: first_overdue.map(due) });
        let pending = database.pending(&[], REFUSED_ATTEMPTS).await?;
        if let Some(oldest) = &pending
            && now - oldest.created_at > overdue_after
        {
            let age = output::duration(now - oldest.created_at);
            let room = &oldest.room;
            self.problems.push(format!("an event of room {room} is not published since {age}"));
        }
        self.outbox = Some(Outbox {
            pending: database.backlog().await?.outbox_pending,
            refused: pending.as_ref().map_or(0, |pending| pending.refused),
            oldest_at: pending.as_ref().map(|pending| pending.created_at),
            oldest_token: pending.map(|pending| pending.room.to_string()),
        });
        let filter = HistoryFilter { since: now - TimeDelta::hours(1), room: None };
        let resets = database.past_resets(filter, COUNTED).await?;
        let counted = resets.iter().filter(|reset| reset.lag_counts);
        self.lag = Lag::of(counted.filter_map(lag).map(|lag| lag.num_milliseconds()).collect());
        Ok(())
    }

    fn table(&self, now: Option<DateTime<Utc>>) -> Table {
        let zone = Zone::shown();
        let mut table = Table::new(["Part", "State", &format!("Details (times: {})", zone.name)]);
        for Server { name, url, error } in &self.servers {
            let state = if error.is_none() { ok("answers") } else { bad("unavailable") };
            let details = error.as_ref().map_or_else(|| url.clone(), |why| format!("{url}: {why}"));
            table.row([(*name).into(), state, details.into()]);
        }
        let Process { address, ready, answer } = &self.process;
        let state = match ready {
            Some(true) => ok("ready"),
            Some(false) => bad("not ready"),
            None => Cell::new("no answer", Mood::Faint),
        };
        let answer = if *ready == Some(true) { String::new() } else { format!(": {answer}") };
        table.row(["process".into(), state, format!("{address}{answer}").into()]);
        for Queue { name, messages, consumers } in &self.queues {
            let state = match messages {
                None => bad("missing"),
                Some(0) => ok("empty"),
                Some(number) => Cell::new(output::counted(*number, "message"), Mood::Warning),
            };
            let details =
                consumers.map(|number| output::counted(number, "consumer")).unwrap_or_default();
            table.row([format!("queue {name}").into(), state, details.into()]);
        }
        if let (Some(now), Some(schedule)) = (now, &self.schedule) {
            schedule.add_to(&mut table, &zone, now);
        }
        if let (Some(now), Some(outbox)) = (now, &self.outbox) {
            outbox.add_to(&mut table, now);
        }
        if self.schedule.is_some() {
            table.row(match &self.lag {
                None => {
                    ["lag, last hour".into(), Cell::new("-", Mood::Faint), "no timer fired".into()]
                }
                Some(lag) => lag.row(),
            });
        }
        table
    }
}

fn ok(text: &str) -> Cell {
    Cell::new(text, Mood::Good)
}

fn bad(text: &str) -> Cell {
    Cell::new(text, Mood::Bad)
}

impl Schedule {
    fn add_to(&self, table: &mut Table, zone: &Zone, now: DateTime<Utc>) {
        let (state, details) = match &self.next {
            None => (Cell::new("-", Mood::Faint), "no timer is set".to_owned()),
            Some(Due { token, due_at }) => {
                (output::countdown(*due_at, now), format!("{}, room {token}", zone.time(*due_at)))
            }
        };
        table.row(["next timer".into(), state, details.into()]);
        let (state, details) = match &self.first_overdue {
            None => (ok("0"), String::new()),
            Some(Due { token, due_at }) => {
                let late = output::duration(now - *due_at);
                (bad(&self.overdue.to_string()), format!("the first, room {token}, since {late}"))
            }
        };
        table.row(["overdue timers".into(), state, details.into()]);
    }
}

impl Outbox {
    fn add_to(&self, table: &mut Table, now: DateTime<Utc>) {
        let Self { pending, refused, oldest_at, oldest_token } = self;
        let state = if *pending == 0 {
            ok("empty")
        } else {
            Cell::new(format!("{pending} pending"), Mood::Warning)
        };
        let details = oldest_at.zip(oldest_token.as_ref()).map(|(at, token)| {
            let age = output::duration(now - at);
            format!("the oldest, of room {token}, since {age}; {refused} refused")
        });
        table.row(["outbox".into(), state, details.unwrap_or_default().into()]);
    }
}

impl Lag {
    /// `None` without lags.
    fn of(mut lags: Vec<i64>) -> Option<Self> {
        lags.sort_unstable();
        let max = *lags.last()?;
        // The smallest lag that so many percent do not exceed.
        let percentile = |percent: usize| {
            let place = (lags.len() * percent).div_ceil(100).saturating_sub(1);
            lags.get(place).copied().unwrap_or(max)
        };
        let [p50, p95, p99] = [50, 95, 99].map(percentile);
        Some(Self { timers: lags.len(), p50, p95, p99, max })
    }

    fn row(&self) -> [Cell; 3] {
        let Self { timers, p50, p95, p99, max } = self;
        let [p50, p95, p99, max] = [p50, p95, p99, max]
            .map(|milliseconds| output::lag(TimeDelta::milliseconds(*milliseconds)));
        let timers = output::counted(u64::try_from(*timers).unwrap_or(u64::MAX), "timer");
        let details = format!("p95 {p95}, p99 {p99}, longest {max} ({timers})");
        ["lag, last hour".into(), format!("p50 {p50}").into(), details.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_lag_that_so_many_do_not_exceed() {
        assert!(Lag::of(Vec::new()).is_none());
        let lag = Lag::of((1..=200).rev().collect()).unwrap();
        assert_eq!((lag.p50, lag.p95, lag.p99, lag.max), (100, 190, 198, 200));
        let lag = Lag::of(vec![7]).unwrap();
        assert_eq!((lag.timers, lag.p50, lag.p99, lag.max), (1, 7, 7, 7));
    }
}
