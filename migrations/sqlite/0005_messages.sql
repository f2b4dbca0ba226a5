-- Messages of the chats. Times are Unix seconds. There is no foreign key to lobbyd_rooms, which may
-- be a view.
CREATE TABLE lobbyd_messages (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id      INTEGER NOT NULL,
    actor_type   TEXT NOT NULL,
    actor_id     TEXT NOT NULL,
    actor_name   TEXT NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL,
    -- Empty for a chat message, comment_deleted for a deleted one, otherwise the name of the
    -- system message.
    kind         TEXT NOT NULL DEFAULT '',
    message      TEXT NOT NULL DEFAULT '',
    -- JSON of the participants that the message mentions; empty for none.
    mentions     TEXT NOT NULL DEFAULT '',
    -- The participant that a system message is about, or that deleted the message.
    about_type   TEXT,
    about_id     TEXT,
    about_name   TEXT,
    reference_id TEXT NOT NULL DEFAULT '',
    parent_id    INTEGER
);

CREATE INDEX lobbyd_messages_room_idx ON lobbyd_messages (room_id, id);
