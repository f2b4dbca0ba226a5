-- Attendees: one row per room and actor. Times are Unix seconds, as clients see them; 0 stands for
-- none. There is no foreign key to lobbyd_rooms, which may be a view.
CREATE TABLE lobbyd_attendees (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id           INTEGER NOT NULL,
    actor_type        TEXT NOT NULL,
    actor_id          TEXT NOT NULL,
    display_name      TEXT NOT NULL DEFAULT '',
    participant_type  INTEGER NOT NULL,
    permissions       INTEGER NOT NULL DEFAULT 0,
    pin               TEXT,
    last_read_message INTEGER NOT NULL DEFAULT 0,
    -- Number of the room's chat messages up to that one.
    comments_read     INTEGER NOT NULL DEFAULT 0,
    read_at           INTEGER NOT NULL DEFAULT 0,
    -- The last message that mentions the attendee.
    last_mention      INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_attendees_actor_key UNIQUE (room_id, actor_type, actor_id),
    CONSTRAINT lobbyd_attendees_pin_key UNIQUE (room_id, pin)
);

CREATE INDEX lobbyd_attendees_actor_idx ON lobbyd_attendees (actor_type, actor_id);
CREATE INDEX lobbyd_attendees_read_at_idx ON lobbyd_attendees (read_at);
CREATE INDEX lobbyd_attendees_last_read_idx
    ON lobbyd_attendees (room_id, actor_type, last_read_message);

-- Presence in the room, from joining to leaving: one row per attendee and client.
CREATE TABLE lobbyd_sessions (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id     INTEGER NOT NULL,
    attendee_id INTEGER NOT NULL,
    session_id  TEXT NOT NULL,
    -- Digest of the cookie by which the client is recognised.
    client      TEXT NOT NULL,
    in_call     INTEGER NOT NULL DEFAULT 0,
    last_ping   INTEGER NOT NULL,
    -- The last activity. It is recorded in intervals.
    seen_at     INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_sessions_session_key UNIQUE (session_id),
    CONSTRAINT lobbyd_sessions_client_key UNIQUE (attendee_id, client),
    CONSTRAINT lobbyd_sessions_attendee_fkey
        FOREIGN KEY (attendee_id) REFERENCES lobbyd_attendees (id) ON DELETE CASCADE
);

CREATE INDEX lobbyd_sessions_in_call_idx ON lobbyd_sessions (room_id, in_call);
CREATE INDEX lobbyd_sessions_last_ping_idx ON lobbyd_sessions (last_ping);

-- Actors who may not join a room.
CREATE TABLE lobbyd_bans (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id        INTEGER NOT NULL,
    actor_type     TEXT NOT NULL,
    actor_id       TEXT NOT NULL,
    display_name   TEXT NOT NULL DEFAULT '',
    moderator_id   TEXT NOT NULL,
    moderator_name TEXT NOT NULL DEFAULT '',
    note           TEXT NOT NULL DEFAULT '',
    created_at     INTEGER NOT NULL,
    CONSTRAINT lobbyd_bans_actor_key UNIQUE (room_id, actor_type, actor_id)
);
