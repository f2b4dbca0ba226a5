-- The signaling servers of Talk that workers have in their configuration.
CREATE TABLE lobbyd_signaling_servers (
    url     TEXT NOT NULL PRIMARY KEY,
    -- Milliseconds since 1970: when a worker last had it.
    seen_at INTEGER NOT NULL
);

-- Changes that have yet to be passed on to the servers, written with their events.
CREATE TABLE lobbyd_signaling_changes (
    -- That of the first event.
    id         TEXT NOT NULL PRIMARY KEY,
    -- JSON: an array of the rooms, {token, since}.
    rooms      TEXT NOT NULL,
    -- Milliseconds since 1970.
    created_at INTEGER NOT NULL
);

-- Rooms that have changed since a server was told them, one row for each of both.
CREATE TABLE lobbyd_signaling_updates (
    server       TEXT NOT NULL,
    token        TEXT NOT NULL,
    -- How often the room has changed.
    changes      INTEGER NOT NULL,
    -- Milliseconds since 1970: when the first of these changes could be told, and when the last one
    -- was passed on.
    since        INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    -- Milliseconds since 1970: when a worker may tell the server. A claim moves it to the claim's end.
    available_at INTEGER NOT NULL,
    -- How often the server failed to take the room or refused it, and whether that is so.
    failures     INTEGER NOT NULL DEFAULT 0,
    failed       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (server, token)
);

CREATE INDEX lobbyd_signaling_updates_available_at_idx
    ON lobbyd_signaling_updates (server, failed, available_at);
