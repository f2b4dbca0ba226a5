-- Rooms. A row with only token, type and name is valid. A row with lobby_state = 1 and a
-- lobby_timer is a scheduled timer, whichever program wrote it. Times are UTC. The binary collation
-- keeps "Abc" and "abc" two rooms.
--
-- The statements of these files can be repeated: MySQL commits every change of a table at once, so
-- a migration that was interrupted is run again.
CREATE TABLE IF NOT EXISTS lobbyd_rooms (
    id                  BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    token               VARCHAR(32) NOT NULL,
    type                SMALLINT NOT NULL,
    name                VARCHAR(255) NOT NULL DEFAULT '',
    description         TEXT NOT NULL DEFAULT (''),
    object_type         VARCHAR(64) NOT NULL DEFAULT '',
    object_id           VARCHAR(64) NOT NULL DEFAULT '',
    lobby_state         SMALLINT NOT NULL DEFAULT 0,
    -- When the lobby opens, in whole seconds.
    lobby_timer         DATETIME,
    -- Milliseconds since 1970 of the last change, strictly increasing.
    lobby_version       BIGINT NOT NULL DEFAULT 0,
    -- The timer that last reset the room.
    lobby_timer_reached DATETIME,
    sip_enabled         SMALLINT NOT NULL DEFAULT 0,
    -- The timer, if it can fire: that of a closed room that can have a lobby. MySQL has no partial
    -- index, so this column is what the other databases have as the condition of an index.
    lobby_due_at        DATETIME GENERATED ALWAYS AS (
        CASE WHEN lobby_state = 1 AND type IN (2, 3) AND object_type IN
                  ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')
        THEN lobby_timer END
    ) STORED INVISIBLE,
    CONSTRAINT lobbyd_rooms_token_key UNIQUE (token),
    CONSTRAINT lobbyd_rooms_type_check CHECK (type BETWEEN 1 AND 6),
    CONSTRAINT lobbyd_rooms_lobby_state_check CHECK (lobby_state IN (0, 1)),
    CONSTRAINT lobbyd_rooms_lobby_timer_check CHECK (lobby_timer >= '1970-01-01 00:00:00'),
    CONSTRAINT lobbyd_rooms_sip_enabled_check CHECK (sip_enabled IN (0, 1, 2)),
    INDEX lobbyd_rooms_due_idx (lobby_due_at, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Without a row here, a room has no password, no call and no chat messages. Times are Unix seconds,
-- as clients see them; 0 stands for none. There is no foreign key: lobbyd_rooms may be a view.
CREATE TABLE IF NOT EXISTS lobbyd_room_states (
    room_id             BIGINT NOT NULL PRIMARY KEY,
    password_hash       VARCHAR(255) NOT NULL DEFAULT '',
    call_started_at     BIGINT NOT NULL DEFAULT 0,
    call_flags          BIGINT NOT NULL DEFAULT 0,
    -- Of participants who have none of their own; 0 for those of Talk.
    default_permissions BIGINT NOT NULL DEFAULT 0,
    read_only           BIGINT NOT NULL DEFAULT 0,
    -- Number of chat messages, without system messages.
    comments            BIGINT NOT NULL DEFAULT 0,
    -- The last change that the chat does not show.
    changed_at          BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
