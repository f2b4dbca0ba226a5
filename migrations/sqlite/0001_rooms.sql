-- The rooms. A row with only token, type and name is valid. A row with lobby_state = 1 and a
-- lobby_timer is a scheduled timer, whoever wrote it. Instants are UTC texts, as datetime() makes
-- them: the checks keep out what would not sort by time.
CREATE TABLE lobbyd_rooms (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    token               TEXT NOT NULL,
    type                INTEGER NOT NULL,
    name                TEXT NOT NULL DEFAULT '',
    description         TEXT NOT NULL DEFAULT '',
    object_type         TEXT NOT NULL DEFAULT '',
    object_id           TEXT NOT NULL DEFAULT '',
    lobby_state         INTEGER NOT NULL DEFAULT 0,
    -- The instant of the reset, in whole seconds.
    lobby_timer         TEXT,
    -- Milliseconds since 1970 of the last change, strictly growing.
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

-- What is due: only the rooms that have a timer.
CREATE INDEX lobbyd_rooms_lobby_timer_idx ON lobbyd_rooms (lobby_timer, id)
    WHERE lobby_timer IS NOT NULL;
