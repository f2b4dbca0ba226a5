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
    -- Presence in the room, from joining to leaving.
    session_id        TEXT,
    in_call           INTEGER NOT NULL DEFAULT 0,
    last_ping         INTEGER NOT NULL DEFAULT 0,
    -- The last activity. It is recorded in intervals.
    seen_at           INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_attendees_actor_key UNIQUE (room_id, actor_type, actor_id),
    CONSTRAINT lobbyd_attendees_pin_key UNIQUE (room_id, pin)
);

CREATE INDEX lobbyd_attendees_actor_idx ON lobbyd_attendees (actor_type, actor_id);
CREATE INDEX lobbyd_attendees_in_call_idx ON lobbyd_attendees (room_id, in_call);
CREATE INDEX lobbyd_attendees_read_at_idx ON lobbyd_attendees (read_at);
CREATE INDEX lobbyd_attendees_last_ping_idx ON lobbyd_attendees (last_ping)
    WHERE session_id IS NOT NULL;
