//! Commands of callers: read what the rules need, ask them, write what they decide.

use chrono::{DateTime, Utc};

use super::changes::{Author, Written};
use super::connection::Transaction;
use super::dialect::Dialect;
use super::error::{CommandError, Result, StoreError};
use crate::domain::commands::{
    AttendeeChange, Changes, Command, CommandContext, NewRoom, OtherCounts, Refusal, Target,
    decide, initial_changes,
};
use crate::domain::{
    Attendee, AttendeeId, Caller, ChatMessage, RoomOverview, RoomToken, RoomUpdated,
};

/// A new room, as its creator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// What is announced, and stored for that.
    pub updates: Vec<RoomUpdated>,
    pub overview: RoomOverview,
    pub owner: Attendee,
}

/// The result of a command. Nothing of it has to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What is announced, and stored for that; `None` if nothing changed.
    pub update: Option<RoomUpdated>,
    /// The chat message that was sent.
    pub message: Option<ChatMessage>,
    /// The room after the change; `None` if nothing changed, or if it was deleted.
    pub overview: Option<RoomOverview>,
    /// The caller's attendee record afterwards.
    pub attendee: Option<Attendee>,
}

impl<D: Dialect> Transaction<D> {
    /// Writes what belongs to a new room, whose row was just inserted.
    pub(super) async fn create(
        &mut self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Created, CommandError> {
        let missing = |what| StoreError::Corrupt(format!("new room {token} has no {what}"));
        let mut room = self.lock_room(token).await?.ok_or_else(|| missing("row"))?;
        let author = Author::of(caller, None);
        let mut updates = Vec::new();
        for changes in initial_changes(&room, caller, new, now) {
            self.check_account(caller, &changes).await?;
            let after = self.write(&room, &changes, &author, now).await?.room;
            updates.extend(self.announce(&room, after.as_ref(), &changes, now).await?);
            room = changes.into_room();
        }
        let owner = self.attendee(room.id, Target::Actor(&caller.actor)).await?;
        let owner = owner.ok_or_else(|| missing("owner"))?;
        Ok(Created { updates, overview: self.overview(room).await?, owner })
    }

    pub(super) async fn execute_command(
        &mut self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Changed, CommandError> {
        let room = self.lock_room(token).await?.ok_or(Refusal::NoRoom)?;
        let me = self.attendee(room.id, Target::Actor(&caller.actor)).await?;
        let target = match command.target() {
            Some(target) => self.attendee(room.id, target).await?,
            None => None,
        };
        let message = match command.message() {
            Some(id) => self.message(room.id, id).await?,
            None => None,
        };
        let others = if command.needs_other_counts() {
            let me = me.as_ref().map_or(AttendeeId::NONE, |me| me.id);
            self.count_others(room.id, me).await?
        } else {
            OtherCounts::default()
        };
        let mut mentioned = Vec::new();
        for actor in command.mentions() {
            mentioned.extend(self.attendee(room.id, Target::Actor(&actor)).await?);
        }
        let is_banned = me.is_none() && self.is_banned(room.id, &caller.actor).await?;
        let ban = match command.ban() {
            Some(id) => self.bans(room.id).await?.into_iter().find(|ban| ban.id == id),
            None => None,
        };
        let other_bans = if let Command::Ban { actor, .. } = command {
            self.count_other_bans(room.id, actor).await?
        } else {
            0
        };
        let context = CommandContext {
            room: &room,
            caller,
            me: me.as_ref(),
            target: target.as_ref(),
            message: message.as_ref(),
            mentioned: &mentioned,
            is_banned,
            ban: ban.as_ref(),
            other_bans,
            others,
            now,
        };
        let changes = decide(&context, command)?;
        if changes.announcement.is_none() {
            return Ok(Changed { update: None, message: None, overview: None, attendee: me });
        }
        self.check_account(caller, &changes).await?;
        let author = Author::of(caller, me.as_ref());
        let Written { room: after, message: written } =
            self.write(&room, &changes, &author, now).await?;
        let update = self.announce(&room, after.as_ref(), &changes, now).await?;
        let Some(room) = after else {
            return Ok(Changed { update, message: None, overview: None, attendee: None });
        };
        let parent = match changes.deleted_message {
            // It has been changed.
            Some(deleted) => self.message(room.id, deleted).await?,
            None => message,
        };
        let may_touch_me = changes.attendee.is_some()
            || !changes.sessions.is_empty()
            || !changes.bulk.is_empty()
            || changes.message.is_some();
        let attendee = if may_touch_me {
            self.attendee(room.id, Target::Actor(&caller.actor)).await?
        } else {
            me
        };
        Ok(Changed {
            update,
            message: written.map(|written| ChatMessage { message: written, parent }),
            overview: Some(self.overview(room).await?),
            attendee,
        })
    }

    /// Refuses to make a user a participant who was removed meanwhile.
    async fn check_account(
        &mut self,
        caller: &Caller,
        changes: &Changes,
    ) -> Result<(), CommandError> {
        let Some(AttendeeChange::New(new)) = &changes.attendee else { return Ok(()) };
        if !new.actor.is_user() || self.lock_account(&new.actor.id).await? {
            return Ok(());
        }
        let is_caller = new.actor == caller.actor;
        Err(if is_caller { Refusal::LoginNeeded } else { Refusal::NoUser }.into())
    }
}
