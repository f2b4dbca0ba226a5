-- Attendees: one row per room and actor. Times are Unix seconds, as clients see them; 0 stands for
-- none. There is no foreign key to lobbyd_rooms, which may be a view.
CREATE TABLE IF NOT EXISTS lobbyd_attendees (
    id                BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    room_id           BIGINT NOT NULL,
    actor_type        VARCHAR(32) NOT NULL,
    actor_id          VARCHAR(64) NOT NULL,
    display_name      VARCHAR(255) NOT NULL DEFAULT '',
    participant_type  BIGINT NOT NULL,
    permissions       BIGINT NOT NULL DEFAULT 0,
    pin               VARCHAR(32),
    last_read_message BIGINT NOT NULL DEFAULT 0,
    -- Number of the room's chat messages up to that one.
    comments_read     BIGINT NOT NULL DEFAULT 0,
    read_at           BIGINT NOT NULL DEFAULT 0,
    -- The last message that mentions the attendee.
    last_mention      BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_attendees_actor_key UNIQUE (room_id, actor_type, actor_id),
    CONSTRAINT lobbyd_attendees_pin_key UNIQUE (room_id, pin),
    INDEX lobbyd_attendees_actor_idx (actor_type, actor_id),
    INDEX lobbyd_attendees_read_at_idx (read_at),
    INDEX lobbyd_attendees_last_read_idx (room_id, actor_type, last_read_message)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Presence in the room, from joining to leaving: one row per attendee and client.
CREATE TABLE IF NOT EXISTS lobbyd_sessions (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    room_id     BIGINT NOT NULL,
    attendee_id BIGINT NOT NULL,
    session_id  VARCHAR(255) NOT NULL,
    -- Digest of the cookie by which the client is recognised.
    client      VARCHAR(255) NOT NULL,
    in_call     BIGINT NOT NULL DEFAULT 0,
    last_ping   BIGINT NOT NULL,
    -- The last activity. It is recorded in intervals.
    seen_at     BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_sessions_session_key UNIQUE (session_id),
    CONSTRAINT lobbyd_sessions_client_key UNIQUE (attendee_id, client),
    CONSTRAINT lobbyd_sessions_attendee_fkey
        FOREIGN KEY (attendee_id) REFERENCES lobbyd_attendees (id) ON DELETE CASCADE,
    INDEX lobbyd_sessions_in_call_idx (room_id, in_call),
    INDEX lobbyd_sessions_last_ping_idx (last_ping)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Actors who may not join a room.
CREATE TABLE IF NOT EXISTS lobbyd_bans (
    id             BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    room_id        BIGINT NOT NULL,
    actor_type     VARCHAR(32) NOT NULL,
    actor_id       VARCHAR(64) NOT NULL,
    display_name   VARCHAR(255) NOT NULL DEFAULT '',
    moderator_id   VARCHAR(64) NOT NULL,
    moderator_name VARCHAR(255) NOT NULL DEFAULT '',
    note           TEXT NOT NULL DEFAULT (''),
    created_at     BIGINT NOT NULL,
    CONSTRAINT lobbyd_bans_actor_key UNIQUE (room_id, actor_type, actor_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
