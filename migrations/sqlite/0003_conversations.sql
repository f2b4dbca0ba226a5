-- What the HTTP API keeps beside the rooms. Instants are Unix seconds, as its clients see them; 0
-- stands for none. There are no foreign keys to lobbyd_rooms, which may be a view.

CREATE TABLE lobbyd_users (
    id            TEXT NOT NULL PRIMARY KEY,
    display_name  TEXT NOT NULL DEFAULT '',
    -- Argon2id, in the PHC string format.
    password_hash TEXT NOT NULL
);

CREATE TABLE lobbyd_user_groups (
    user_id TEXT NOT NULL,
    name    TEXT NOT NULL,
    PRIMARY KEY (user_id, name)
);

-- A room without a row here has no password, no call, and nothing was said in it.
CREATE TABLE lobbyd_room_states (
    room_id         INTEGER NOT NULL PRIMARY KEY,
    password_hash   TEXT NOT NULL DEFAULT '',
    call_started_at INTEGER NOT NULL DEFAULT 0,
    call_flags      INTEGER NOT NULL DEFAULT 0,
    -- Chat messages, system messages not counted.
    comments        INTEGER NOT NULL DEFAULT 0,
    -- The last change that the chat does not show.
    changed_at      INTEGER NOT NULL DEFAULT 0
);

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
    -- The room's comments at that message.
    comments_read     INTEGER NOT NULL DEFAULT 0,
    read_at           INTEGER NOT NULL DEFAULT 0,
    -- Presence in the room, from joining to leaving.
    session_id        TEXT,
    in_call           INTEGER NOT NULL DEFAULT 0,
    last_ping         INTEGER NOT NULL DEFAULT 0,
    -- The last sign of life, noted now and then.
    seen_at           INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_attendees_actor_key UNIQUE (room_id, actor_type, actor_id),
    CONSTRAINT lobbyd_attendees_pin_key UNIQUE (room_id, pin)
);

CREATE TABLE lobbyd_messages (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id      INTEGER NOT NULL,
    actor_type   TEXT NOT NULL,
    actor_id     TEXT NOT NULL,
    actor_name   TEXT NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL,
    -- Empty for a chat message, else the name of the system message.
    kind         TEXT NOT NULL DEFAULT '',
    message      TEXT NOT NULL DEFAULT '',
    -- Whom a system message is about.
    about_type   TEXT,
    about_id     TEXT,
    about_name   TEXT,
    reference_id TEXT NOT NULL DEFAULT '',
    parent_id    INTEGER
);

CREATE INDEX lobbyd_attendees_actor_idx ON lobbyd_attendees (actor_type, actor_id);
CREATE INDEX lobbyd_attendees_in_call_idx ON lobbyd_attendees (room_id, in_call);
CREATE INDEX lobbyd_attendees_read_at_idx ON lobbyd_attendees (read_at);
CREATE INDEX lobbyd_attendees_last_ping_idx ON lobbyd_attendees (last_ping)
    WHERE session_id IS NOT NULL;
CREATE INDEX lobbyd_messages_room_idx ON lobbyd_messages (room_id, id);
