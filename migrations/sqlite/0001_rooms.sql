-- Rooms. A row with only token, type and name is valid. A row with lobby_state = 1 and a
-- lobby_timer is a scheduled timer, whichever program wrote it. Times are UTC texts, as
-- datetime() makes them: the checks refuse texts that would not sort by time.
CREATE TABLE lobbyd_rooms (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    token               TEXT NOT NULL,
    type                INTEGER NOT NULL,
    name                TEXT NOT NULL DEFAULT '',
    description         TEXT NOT NULL DEFAULT '',
    object_type         TEXT NOT NULL DEFAULT '',
    object_id           TEXT NOT NULL DEFAULT '',
    lobby_state         INTEGER NOT NULL DEFAULT 0,
    -- When the lobby opens, in whole seconds.
    lobby_timer         TEXT,
    -- Milliseconds since 1970 of the last change, strictly increasing.
    lobby_version       INTEGER NOT NULL DEFAULT 0,
    -- The timer that last reset the room.
    lobby_timer_reached TEXT,
    sip_enabled         INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_rooms_token_key UNIQUE (token),
    CONSTRAINT lobbyd_rooms_token_check CHECK (length(token) BETWEEN 1 AND 32),
    CONSTRAINT lobbyd_rooms_type_check CHECK (type BETWEEN 1 AND 6),
    CONSTRAINT lobbyd_rooms_lobby_state_check CHECK (lobby_state IN (0, 1)),
    CONSTRAINT lobbyd_rooms_lobby_timer_check
        CHECK (lobby_timer IS datetime(lobby_timer) AND coalesce(lobby_timer >= '1970', TRUE)),
    CONSTRAINT lobbyd_rooms_sip_enabled_check CHECK (sip_enabled IN (0, 1, 2))
);

-- The timers that can fire, and no others: those of closed rooms that can have a lobby.
CREATE INDEX lobbyd_rooms_due_idx ON lobbyd_rooms (lobby_timer, id)
    WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND type IN (2, 3) AND object_type IN
          ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting');

-- Without a row here, a room has no password, no call and no chat messages. Times are Unix seconds,
-- as clients see them; 0 stands for none. There is no foreign key: lobbyd_rooms may be a view.
CREATE TABLE lobbyd_room_states (
    room_id             INTEGER NOT NULL PRIMARY KEY,
    password_hash       TEXT NOT NULL DEFAULT '',
    call_started_at     INTEGER NOT NULL DEFAULT 0,
    call_flags          INTEGER NOT NULL DEFAULT 0,
    -- Of participants who have none of their own; 0 for those of Talk.
    default_permissions INTEGER NOT NULL DEFAULT 0,
    read_only           INTEGER NOT NULL DEFAULT 0,
    -- Number of chat messages, without system messages.
    comments            INTEGER NOT NULL DEFAULT 0,
    -- The last change that the chat does not show.
    changed_at          INTEGER NOT NULL DEFAULT 0
);
