-- Timers of a Nextcloud Talk that are about to be due: their rooms will be announced as open.
CREATE TABLE lobbyd_talk_timers (
    -- As in Talk's table.
    room_id   BIGINT NOT NULL,
    token     VARCHAR(64) NOT NULL,
    room_type BIGINT NOT NULL,
    due_at    TIMESTAMPTZ(0) NOT NULL,
    PRIMARY KEY (room_id, due_at)
);

-- Versions of the lobbies that events have set in a Nextcloud Talk, which has none.
CREATE TABLE lobbyd_talk_lobbies (
    token   VARCHAR(64) NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);
