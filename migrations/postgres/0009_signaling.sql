-- The signaling servers of Talk that workers have in their configuration.
CREATE TABLE lobbyd_signaling_servers (
    url     VARCHAR(255) NOT NULL PRIMARY KEY,
    -- Milliseconds since 1970: when a worker last had it.
    seen_at BIGINT NOT NULL
);

-- Changes that have yet to be passed on to the servers, written with their events.
CREATE TABLE lobbyd_signaling_changes (
    -- That of the first event.
    id         VARCHAR(36) NOT NULL PRIMARY KEY,
    -- JSON: an array of the rooms, {token, since}.
    rooms      TEXT NOT NULL,
    -- Milliseconds since 1970.
    created_at BIGINT NOT NULL
);

-- Rooms that have changed since a server was told them, one row for each of both.
CREATE TABLE lobbyd_signaling_updates (
    server       VARCHAR(255) NOT NULL,
    token        VARCHAR(32) NOT NULL,
    -- How often the room has changed.
    changes      BIGINT NOT NULL,
    -- Milliseconds since 1970: when the first of these changes could be told, and when the last one
    -- was passed on.
    since        BIGINT NOT NULL,
    changed_at   BIGINT NOT NULL,
    -- Milliseconds since 1970: when a worker may tell the server. A claim moves it to the claim's end.
    available_at BIGINT NOT NULL,
    -- How often the server failed to take the room or refused it, and whether that is so.
    failures     BIGINT NOT NULL DEFAULT 0,
    failed       SMALLINT NOT NULL DEFAULT 0,
    PRIMARY KEY (server, token)
);

CREATE INDEX lobbyd_signaling_updates_available_at_idx
    ON lobbyd_signaling_updates (server, failed, available_at);
