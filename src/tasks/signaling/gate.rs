//! What may be sent to a server at present.

use std::mem::discriminant;
use std::time::Duration;

use tokio::time::Instant;

use crate::nextcloud::{SignalingFault, SignalingStop};
use crate::tasks::breaker::{Breaker, Change};

/// Requests at a time: a server that begins to refuse the secret receives fewer than the ten that make
/// it block the address.
pub(super) const REQUESTS: usize = 4;

/// Requests at a time for rooms that failed before, so that these do not hold up others.
const RETRIES: usize = 2;

/// Time without requests after the secret was refused. Servers block an address after ten refused requests
/// within half an hour: those of all workers there, four at most, and of Talk.
const REFUSED_WAIT: Duration = Duration::from_mins(15);

/// Rooms that have to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rooms without a failure.
    New,
    /// Rooms that the server failed to take or refused.
    Failed,
}

impl Kind {
    pub(super) fn other(self) -> Self {
        match self {
            Self::New => Self::Failed,
            Self::Failed => Self::New,
        }
    }
}

/// Requests that are under way.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct UnderWay {
    pub(super) all: usize,
    pub(super) retries: usize,
}

#[derive(Debug, Default)]
pub(super) struct Gate {
    breaker: Breaker,
    stop: Option<Stop>,
    /// Whether the server has accepted the secret since it was last in doubt: before, one request at a
    /// time is sent.
    is_proven: bool,
    /// How the server failed last.
    failure: String,
}

#[derive(Debug)]
struct Stop {
    reason: SignalingStop,
    retry_at: Instant,
    /// The secret that was refused, by how often it had been replaced.
    secret_version: u64,
}

/// What the log has to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Stopped,
    Failing,
    Works,
}

impl Gate {
    /// How many rooms of a kind may be sent now.
    pub(super) fn limit(
        &mut self,
        kind: Kind,
        under_way: UnderWay,
        secret_version: u64,
        now: Instant,
    ) -> usize {
        let is_stopped = self.is_stopped(secret_version, now);
        let most = if self.is_proven { REQUESTS } else { 1 };
        let free = if is_stopped { 0 } else { most.saturating_sub(under_way.all) };
        match kind {
            Kind::New => free,
            Kind::Failed if free == 0 || under_way.retries >= RETRIES => 0,
            Kind::Failed if !self.breaker.is_open() => free.min(RETRIES - under_way.retries),
            // While the request of a probe is under way, there may be no other room to probe with.
            Kind::Failed => usize::from(under_way.retries == 0 && self.breaker.begin_probe()),
        }
    }

    /// Whether nothing may be sent with this secret.
    pub(super) fn is_stopped(&self, secret_version: u64, now: Instant) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| stop.secret_version == secret_version && now < stop.retry_at)
    }

    /// Records the outcome of a request for a room, which failed before if it is a retry.
    pub(super) fn record(
        &mut self,
        outcome: Result<(), &SignalingFault>,
        is_retry: bool,
        secret_version: u64,
        now: Instant,
    ) -> Option<News> {
        match outcome {
            Err(SignalingFault::Stop(reason)) => {
                let is_known = self.stop.as_ref().is_some_and(|stop| {
                    stop.secret_version == secret_version
                        && discriminant(&stop.reason) == discriminant(reason)
                });
                let wait = match reason {
                    SignalingStop::Blocked(Some(wait)) => *wait,
                    SignalingStop::Blocked(None) | SignalingStop::Unauthorized => REFUSED_WAIT,
                };
                let (reason, retry_at) = (reason.clone(), now + wait);
                self.stop = Some(Stop { reason, retry_at, secret_version });
                self.is_proven = false;
                (!is_known).then_some(News::Stopped)
            }
            Err(fault @ (SignalingFault::Failing(_) | SignalingFault::Unanswered)) => {
                if let Some(stop) =
                    self.stop.as_mut().filter(|_| *fault == SignalingFault::Unanswered)
                {
                    // Servers delay the answers to refused requests.
                    stop.retry_at = stop.retry_at.max(now + REFUSED_WAIT);
                    stop.secret_version = secret_version;
                }
                self.failure = fault.to_string();
                let change = self.breaker.record(is_retry, 0, 1);
                (change == Some(Change::Opened)).then_some(News::Failing)
            }
            // Before it checks the secret.
            Err(SignalingFault::Refused(_)) => {
                let was_failing = self.breaker.takes_nothing();
                let change = self.breaker.record(is_retry, 1, 0);
                (was_failing || change == Some(Change::Closed)).then_some(News::Works)
            }
            Ok(()) => {
                self.is_proven = true;
                let was_stopped = self.stop.take().is_some();
                let was_failing = self.breaker.takes_nothing();
                let change = self.breaker.record(is_retry, 1, 0);
                if was_failing {
                    self.breaker.probe_now();
                }
                let is_news = was_stopped || was_failing || change == Some(Change::Closed);
                is_news.then_some(News::Works)
            }
        }
    }

    /// No failed room could be claimed: other workers have claimed them, they are delayed, or the database
    /// did not answer.
    pub(super) fn found_no_failed_room(&mut self) {
        self.breaker.take_back_probe();
    }

    /// No room is left that failed, so that none can be tried.
    pub(super) fn has_no_failed_room(&mut self) {
        self.breaker.reset();
    }

    /// Nothing is left to be told, so that nothing can be tried.
    pub(super) fn has_nothing_left(&mut self, secret_version: u64, now: Instant) {
        if !self.is_stopped(secret_version, now) {
            self.stop = None;
        }
    }

    /// Why nothing is told, if that is so.
    pub(super) fn problem(&self, secret_version: u64) -> Option<String> {
        let stop = self.stop.as_ref().filter(|stop| stop.secret_version == secret_version);
        let stop = stop.map(|stop| stop.reason.to_string());
        stop.or_else(|| self.breaker.takes_nothing().then(|| self.failure.clone()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NOTHING: UnderWay = UnderWay { all: 0, retries: 0 };

    fn failing() -> SignalingFault {
        SignalingFault::Failing("status 500".to_owned())
    }

    fn limits(gate: &mut Gate, under_way: UnderWay, secret_version: u64) -> (usize, usize) {
        let now = Instant::now();
        let mut limit = |kind| gate.limit(kind, under_way, secret_version, now);
        (limit(Kind::New), limit(Kind::Failed))
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_until_the_secret_is_accepted() {
        let mut gate = Gate::default();
        let one = UnderWay { all: 1, retries: 0 };
        assert_eq!((limits(&mut gate, NOTHING, 0), limits(&mut gate, one, 0)), ((1, 1), (0, 0)));
        assert_eq!(gate.record(Ok(()), false, 0, Instant::now()), None);
        assert_eq!(limits(&mut gate, one, 0), (3, 2));
        assert_eq!(limits(&mut gate, UnderWay { all: 2, retries: 2 }, 0), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_secret_stops_all_until_another_one_or_a_quarter_of_an_hour_later() {
        let refused = SignalingFault::from(SignalingStop::Unauthorized);
        let mut gate = Gate::default();
        let record = |gate: &mut Gate, outcome: Result<(), &SignalingFault>, version| {
            gate.record(outcome, false, version, Instant::now())
        };
        assert_eq!(record(&mut gate, Err(&refused), 0), Some(News::Stopped));
        assert_eq!(record(&mut gate, Err(&refused), 0), None);
        assert!(gate.problem(0).unwrap().contains("server.conf"));
        advance(Duration::from_secs(899)).await;
        assert_eq!(limits(&mut gate, NOTHING, 0), (0, 0));
        assert_eq!(limits(&mut gate, NOTHING, 1), (1, 1), "another secret");
        advance(Duration::from_secs(1)).await;
        assert_eq!(limits(&mut gate, NOTHING, 0), (1, 1));
        assert_eq!(record(&mut gate, Ok(()), 0), Some(News::Works));
        assert_eq!((gate.problem(0), limits(&mut gate, NOTHING, 0)), (None, (4, 2)));
    }

    #[test]
    fn a_refusal_of_another_secret_or_for_another_reason_is_news() {
        let blocked = |seconds| SignalingStop::Blocked(Some(Duration::from_secs(seconds)));
        let mut gate = Gate::default();
        for (reason, version, news) in [
            (SignalingStop::Unauthorized, 0, Some(News::Stopped)),
            (SignalingStop::Unauthorized, 0, None),
            (SignalingStop::Unauthorized, 1, Some(News::Stopped)),
            (blocked(60), 1, Some(News::Stopped)),
            (blocked(50), 1, None),
        ] {
            let fault = SignalingFault::from(reason);
            let recorded = gate.record(Err(&fault), false, version, Instant::now());
            assert_eq!(recorded, news, "{fault} {version}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_may_be_a_refusal_and_an_outage_is_none() {
        let mut gate = Gate::default();
        let refused = SignalingFault::from(SignalingStop::Unauthorized);
        gate.record(Err(&refused), false, 0, Instant::now());
        gate.record(Err(&SignalingFault::Refused(413)), false, 1, Instant::now());
        assert_eq!(limits(&mut gate, NOTHING, 0), (0, 0), "the secret was not checked");
        gate.record(Err(&failing()), false, 1, Instant::now());
        assert_eq!(limits(&mut gate, NOTHING, 1).0, 1);
        gate.record(Err(&SignalingFault::Unanswered), false, 1, Instant::now());
        assert_eq!(limits(&mut gate, NOTHING, 1), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_one_without_a_room_counts_for_nothing() {
        let mut gate = Gate::default();
        gate.record(Err(&failing()), false, 0, Instant::now());
        advance(Duration::from_mins(1)).await;
        assert_eq!(limits(&mut gate, UnderWay { all: 0, retries: 1 }, 0), (1, 0));
        for _ in 0..3 {
            assert_eq!(limits(&mut gate, NOTHING, 0), (1, 1));
            gate.found_no_failed_room();
            assert_eq!(gate.problem(0).as_deref(), Some("status 500"));
        }
        assert_eq!(limits(&mut gate, NOTHING, 0), (1, 1));
        advance(Duration::from_secs(2)).await;
        assert_eq!(limits(&mut gate, NOTHING, 0), (1, 1), "the delay has not grown");
        gate.has_no_failed_room();
        assert_eq!(gate.problem(0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_server_gets_new_rooms_and_probes() {
        let mut gate = Gate::default();
        gate.record(Ok(()), false, 0, Instant::now());
        let record = |gate: &mut Gate, outcome: Result<(), &SignalingFault>, is_retry| {
            gate.record(outcome, is_retry, 0, Instant::now())
        };
        assert_eq!(record(&mut gate, Err(&failing()), false), Some(News::Failing));
        assert_eq!(gate.problem(0).as_deref(), Some("status 500"));
        assert_eq!(limits(&mut gate, NOTHING, 0), (4, 0));
        advance(Duration::from_secs(1)).await;
        assert_eq!(limits(&mut gate, NOTHING, 0), (4, 1));
        assert_eq!(limits(&mut gate, NOTHING, 0), (4, 0));
        assert_eq!(record(&mut gate, Ok(()), false), Some(News::Works), "another room");
        assert_eq!((gate.problem(0), limits(&mut gate, NOTHING, 0)), (None, (4, 1)), "at once");
        assert_eq!(record(&mut gate, Ok(()), true), Some(News::Works));
        assert_eq!(limits(&mut gate, NOTHING, 0), (4, 2));
    }
}
