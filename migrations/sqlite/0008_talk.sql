-- Timers of a Nextcloud Talk that are about to be due: their rooms will be announced as open.
CREATE TABLE lobbyd_talk_timers (
    -- As in Talk's table.
    room_id   INTEGER NOT NULL,
    token     TEXT NOT NULL,
    room_type INTEGER NOT NULL,
    due_at    TEXT NOT NULL,
    PRIMARY KEY (room_id, due_at)
);

-- Versions of the lobbies that events have set in a Nextcloud Talk, which has none.
CREATE TABLE lobbyd_talk_lobbies (
    token   TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL
);
