//! What the leader does after an attempt: it announces the room, tries it again later, or stops asking.

use tokio::time::Instant;

use super::announcer::Ended;
use super::attempt::{Attempted, Outcome};
use super::leader::{AFTER_DUE, Leader};
use super::queue::Failure;
use super::report::count_request;
use crate::domain::{RoomUpdated, SipState, Standing, TalkTimer};
use crate::health::Component;
use crate::logging;
use crate::nextcloud::{Answer, Trouble};

impl Leader {
    pub(super) fn attempted(&mut self, attempted: Attempted) {
        let Attempted { timer, begun_at, is_retry: _, answer, outcome, secret_version } = attempted;
        let now = Instant::now();
        if let Some(answer) = &answer {
            count_request(answer.outcome());
        }
        // It stands for all requests, whatever became of the room.
        if let Some(Answer::Trouble(trouble)) = &answer {
            if *trouble == Trouble::Unauthorized {
                self.refused_secret = secret_version;
            }
            self.stopped(trouble.clone());
        }
        match outcome {
            Outcome::Settled(standing, read_at) => {
                let is_recorded = self.queue.settled(&timer, now);
                let update = (standing == Standing::Opened).then(|| {
                    let sip = match &answer {
                        Some(Answer::Read(Some(sip))) => *sip,
                        _unknown => SipState::Disabled,
                    };
                    self.report.opened(&timer, read_at, answer.is_some());
                    timer.opened(read_at, sip)
                });
                self.announce(timer, update, is_recorded);
                if matches!(answer, Some(Answer::Read(_) | Answer::Failed(_))) {
                    self.works(begun_at);
                }
            }
            Outcome::NotDue(wait) => self.queue.put_back(timer.room, now + wait + AFTER_DUE),
            Outcome::Unknown(error) => {
                let problem = format!("database of Talk: {}", logging::causes(&error));
                let is_hidden = answer == Some(Answer::NotFound);
                let failure = if is_hidden { Failure::Final } else { Failure::Failed };
                self.fail(&timer, failure, &problem, now);
            }
            Outcome::Closed => {
                if let Some(answer) = answer {
                    self.still_closed(&timer, &answer, begun_at, now);
                } else {
                    // It is no longer among the rooms that may be asked for.
                    let is_recorded = self.queue.settled(&timer, now);
                    self.announce(timer, None, is_recorded);
                }
            }
        }
    }

    /// Reacts to an answer after which the room is still closed.
    fn still_closed(
        &mut self,
        timer: &TalkTimer,
        answer: &Answer,
        begun_at: Instant,
        now: Instant,
    ) {
        let problem = answer.problem();
        match answer {
            Answer::Read(_) => {
                self.works(begun_at);
                self.fail(timer, Failure::StillClosed, &problem, now);
            }
            Answer::NotFound => {
                self.fail(timer, Failure::Final, &problem, now);
                if self.site.hid(timer.room, 404, now) {
                    tracing::warn!(
                        "Talk shows none of the rooms, they are tried rarely from now on"
                    );
                }
                self.show_site();
            }
            Answer::Failed(_) | Answer::Unanswered => {
                let was_refused = self.queue.is_refused(timer.room);
                if !was_refused && self.site.failed(timer.room, &problem, begun_at, now) {
                    tracing::warn!(error = problem, "Talk fails for every room");
                }
                self.show_site();
                self.fail(timer, Failure::Failed, &problem, now);
            }
            Answer::Trouble(_) => self.queue.put_back(timer.room, now),
        }
    }

    fn fail(&mut self, timer: &TalkTimer, failure: Failure, problem: &str, now: Instant) {
        if self.queue.failed(timer.room, failure, now) {
            let (token, due_at) = (&timer.token, &timer.due_at);
            tracing::warn!(
                room.token = %token,
                timer.due_at = %due_at,
                error = problem,
                "Talk does not open this room, it is tried rarely from now on"
            );
        } else {
            tracing::debug!(room.token = %timer.token, error = problem, "room not open yet");
        }
    }

    /// Ends the record of a timer, with the event about its room.
    pub(super) fn announce(
        &self,
        timer: TalkTimer,
        update: Option<RoomUpdated>,
        is_recorded: bool,
    ) {
        // The announcer ends after this task.
        self.announcements.send(Ended { timer, update, is_recorded }).ok();
    }

    /// Records that Talk has answered a request that was begun then.
    pub(super) fn works(&mut self, begun_at: Instant) {
        if let Some(since) = self.site.works(begun_at) {
            self.resume(since);
        }
        self.show_site();
    }

    /// Requests rooms again, after Talk could not be asked since then.
    pub(super) fn resume(&mut self, since: Instant) {
        tracing::info!("rooms of Talk are requested again");
        self.queue.recover(since, Instant::now());
    }

    /// Records an answer that stands for all requests.
    pub(super) fn stopped(&mut self, trouble: Trouble) {
        let problem = trouble.to_string();
        if self.site.refused(trouble, Instant::now()) {
            tracing::warn!(error = problem, "rooms of Talk cannot be opened");
        }
        self.show_site();
    }

    /// Shows in readiness and metrics whether Talk can be asked.
    pub(super) fn show_site(&self) {
        let health = &self.ctx.health;
        match self.site.trouble() {
            Some(trouble) => health.set_down(Component::Talk, trouble.to_string()),
            // Not before the first look at the table.
            None if self.clock.is_some() => health.set_up(Component::Talk),
            None => false,
        };
    }
}
