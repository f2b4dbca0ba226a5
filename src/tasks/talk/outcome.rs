//! What the leader does after an attempt: it announces the room, tries it again later, or stops asking.

use std::sync::Arc;

use tokio::time::Instant;

use super::attempt::{Attempted, Outcome, announce};
use super::leader::{AFTER_DUE, Leader};
use super::queue::Failure;
use super::report::count_request;
use crate::domain::{RoomUpdated, SipState, Standing, TalkTimer};
use crate::health::Component;
use crate::logging;
use crate::talk::{Answer, Trouble};

impl Leader {
    pub(super) fn attempted(&mut self, attempted: Attempted) {
        let Attempted { timer, answer, outcome, secret_version } = attempted;
        let now = Instant::now();
        if answer == Some(Answer::Trouble(Trouble::Unauthorized)) {
            self.refused_secret = secret_version;
        }
        if let Some(answer) = &answer {
            count_request(answer.outcome());
        }
        match outcome {
            Outcome::Settled(standing, read_at) => {
                let is_recorded = self.queue.settled(timer.room);
                let mut update = None;
                if standing == Standing::Opened {
                    let sip = match &answer {
                        Some(Answer::Read(Some(sip))) => *sip,
                        _unknown => SipState::Disabled,
                    };
                    update = Some(timer.opened(read_at, sip));
                    self.report.opened(&timer, read_at, answer.is_some());
                }
                self.announce(timer, update, is_recorded);
                if answer.is_some() {
                    self.works();
                }
            }
            Outcome::NotDue => self.queue.put_back(timer.room, now + AFTER_DUE),
            Outcome::Unknown(error) => {
                let problem = format!("database of Talk: {}", logging::causes(&error));
                self.fail(&timer, Failure::Failed, &problem, now);
            }
            Outcome::Closed(answer) => self.still_closed(&timer, answer, now),
        }
    }

    /// Reacts to an answer after which the room is still closed.
    pub(super) fn still_closed(&mut self, timer: &TalkTimer, answer: Answer, now: Instant) {
        let problem = answer.problem();
        match answer {
            Answer::Read(_) => {
                self.works();
                self.fail(timer, Failure::StillClosed, &problem, now);
            }
            Answer::NotFound => {
                self.works();
                self.fail(timer, Failure::Final, &problem, now);
            }
            Answer::Failed(_) | Answer::Unanswered => {
                if self.site.failed(timer.room, &problem, now) {
                    tracing::warn!(error = problem, "Talk fails for every room");
                }
                self.show_site();
                self.fail(timer, Failure::Failed, &problem, now);
            }
            Answer::Trouble(trouble) => {
                self.queue.put_back(timer.room, now);
                self.stopped(trouble);
            }
        }
    }

    pub(super) fn fail(
        &mut self,
        timer: &TalkTimer,
        failure: Failure,
        problem: &str,
        now: Instant,
    ) {
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
        &mut self,
        timer: TalkTimer,
        update: Option<RoomUpdated>,
        is_recorded: bool,
    ) {
        let database = Arc::clone(&self.ctx.database);
        self.announcements.push(Box::pin(announce(database, timer, update, is_recorded)));
    }

    /// Records that Talk answers.
    pub(super) fn works(&mut self) {
        if let Some(since) = self.site.works() {
            tracing::info!("Talk works again");
            self.queue.recover(since, Instant::now());
        }
        self.show_site();
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
