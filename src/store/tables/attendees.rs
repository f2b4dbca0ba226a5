//! Attendees, one row per actor and room, and their sessions.

use chrono::{DateTime, Utc};

use crate::domain::commands::{BulkChange, OtherCounts, SessionChange, Target};
use crate::domain::{Actor, Attendee, AttendeeId, Permissions, Pins, Room, RoomId, Session};
use crate::store::connection::{Connection, Transaction, expect_rows};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::Result;
use crate::store::rows;
use crate::store::statements::attendees as statements;

const TABLE: &str = "lobbyd_attendees";

impl<D: Dialect> Connection<D> {
    pub(crate) async fn attendee(
        &mut self,
        room: RoomId,
        target: Target<'_>,
    ) -> Result<Option<Attendee>> {
        let found = match target {
            Target::Attendee(id) => {
                self.fetch_all(statements::BY_ID, values![room, id], rows::attendee).await?
            }
            Target::Actor(Actor { kind, id }) => {
                let values = values![room, kind.name(), id];
                self.fetch_all(statements::BY_ACTOR, values, rows::attendee).await?
            }
        };
        Ok(rows::join_sessions(found).pop())
    }

    pub(crate) async fn attendees(&mut self, room: RoomId) -> Result<Vec<Attendee>> {
        let found = self.fetch_all(statements::ALL_OF_ROOM, values![room], rows::attendee).await?;
        Ok(rows::join_sessions(found))
    }

    /// Counts the owners and moderators, and the users.
    pub(crate) async fn count_users(&mut self, room: RoomId) -> Result<(i64, i64)> {
        let counts = |row: &D::Row| Ok((row.int("moderators")?, row.int("users")?));
        self.fetch_one(statements::COUNT_USERS, values![room], counts).await
    }

    /// The last message that all users have read.
    pub(crate) async fn last_common_read(&mut self, room: RoomId) -> Result<i64> {
        self.fetch_one(statements::LAST_COMMON_READ, values![room], |row| row.int("id")).await
    }
}

impl<D: Dialect> Transaction<D> {
    /// Marks the messages up to this one as read, the room's comments up to there included. Does
    /// nothing if a newer one is. Returns the number of rows.
    pub(crate) async fn mark_read(
        &mut self,
        attendee: AttendeeId,
        message: i64,
        comments: i64,
        now: DateTime<Utc>,
    ) -> Result<u64> {
        let values = values![message, comments, now.timestamp(), attendee, message];
        self.execute(statements::MARK_READ, values).await
    }

    /// Counts the participants except this one.
    pub(crate) async fn count_others(
        &mut self,
        room: RoomId,
        except: AttendeeId,
    ) -> Result<OtherCounts> {
        let counts = |row: &D::Row| {
            Ok(OtherCounts {
                moderators: row.int("moderators")?,
                users: row.int("users")?,
                in_call: row.int("in_call")?,
            })
        };
        let values = values![room, except, room, except];
        self.fetch_one(statements::COUNT_OTHERS, values, counts).await
    }

    pub(crate) async fn count_in_call(&mut self, room: RoomId) -> Result<i64> {
        self.fetch_one(statements::COUNT_IN_CALL, values![room], |row| row.int("number")).await
    }

    /// Adds an attendee who has read all messages.
    pub(crate) async fn insert_attendee(&mut self, room: RoomId, new: &Attendee) -> Result<()> {
        let values = values![
            new.actor.kind.name(),
            &new.actor.id,
            &new.display_name,
            new.participant_type.number(),
            new.permissions.bits(),
            new.pin.as_deref(),
            room,
            new.comments_read,
            room,
        ];
        self.execute(statements::INSERT, values).await.map(drop)
    }

    pub(crate) async fn update_attendee(&mut self, attendee: &Attendee) -> Result<()> {
        let values = values![
            &attendee.display_name,
            attendee.participant_type.number(),
            attendee.permissions.bits(),
            attendee.id,
        ];
        expect_rows(self.execute(statements::UPDATE, values).await?, 1, TABLE)
    }

    pub(crate) async fn delete_attendee(&mut self, attendee: AttendeeId) -> Result<()> {
        expect_rows(self.execute(statements::DELETE, values![attendee]).await?, 1, TABLE)
    }

    /// Writes one change. The attendee of a session that starts exists.
    pub(crate) async fn change_session(
        &mut self,
        room: RoomId,
        change: &SessionChange,
    ) -> Result<()> {
        let rows = match change {
            SessionChange::Started { actor, session } => {
                let Session { id, client, in_call, last_ping } = session;
                let values = values![
                    id,
                    &client.0,
                    in_call.bits(),
                    *last_ping,
                    room,
                    room,
                    actor.kind.name(),
                    &actor.id,
                ];
                self.execute(statements::INSERT_SESSION, values).await?
            }
            SessionChange::CallFlags(Session { id, in_call, .. }) => {
                self.execute(statements::SET_CALL_FLAGS, values![in_call.bits(), id]).await?
            }
            SessionChange::Ended(Session { id, .. }) => {
                self.execute(statements::DELETE_SESSION, values![id]).await?
            }
        };
        expect_rows(rows, 1, "lobbyd_sessions")
    }

    pub(crate) async fn delete_attendees(&mut self, room: RoomId) -> Result<()> {
        self.execute(statements::DELETE_OF_ROOM, values![room]).await.map(drop)
    }

    pub(crate) async fn delete_attendees_of(&mut self, user: &str) -> Result<()> {
        self.execute(statements::DELETE_OF_USER, values![user]).await.map(drop)
    }

    pub(crate) async fn change_attendees(&mut self, room: &Room, change: BulkChange) -> Result<()> {
        let statement = match change {
            BulkChange::AssignPins => return self.assign_pins(room.id).await,
            BulkChange::DropPins => statements::DROP_PINS,
            BulkChange::ResetPermissions => statements::RESET_PERMISSIONS,
            BulkChange::RemoveWaitingFromCall => return self.remove_waiting_from_call(room).await,
            BulkChange::RemoveAllFromCall => statements::REMOVE_ALL_FROM_CALL,
            BulkChange::RemoveUninvited => statements::REMOVE_UNINVITED,
        };
        self.execute(statement, values![room.id]).await.map(drop)
    }

    async fn remove_waiting_from_call(&mut self, room: &Room) -> Result<()> {
        let ignores_lobby = room.default_permissions.contains(Permissions::IGNORE_LOBBY);
        let admitted = if ignores_lobby { Permissions::DEFAULT.bits() } else { -1 };
        let values = values![room.id, admitted];
        self.execute(statements::REMOVE_WAITING_FROM_CALL, values).await.map(drop)
    }

    /// Marks a message as the last one that mentions an attendee.
    pub(crate) async fn mention(&mut self, attendee: AttendeeId, message: i64) -> Result<()> {
        let rows = self.execute(statements::MENTION, values![message, attendee]).await?;
        expect_rows(rows, 1, TABLE)
    }

    async fn assign_pins(&mut self, room: RoomId) -> Result<()> {
        let pin = |row: &D::Row| row.text("pin");
        let mut pins = Pins::in_use(self.fetch_all(statements::PINS, values![room], pin).await?);
        let id = |row: &D::Row| row.int("id");
        for attendee in self.fetch_all(statements::WITHOUT_PIN, values![room], id).await? {
            let pin = pins.assign(rand::random_range);
            let set = self.execute(statements::SET_PIN, values![&pin, attendee]).await?;
            expect_rows(set, 1, TABLE)?;
        }
        Ok(())
    }
}
