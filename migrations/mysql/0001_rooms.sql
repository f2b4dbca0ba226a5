-- The rooms. A row with only token, type and name is valid. A row with lobby_state = 1 and a
-- lobby_timer is a scheduled timer, whoever wrote it. Instants are UTC. The binary collation
-- keeps "Abc" and "abc" two rooms.
--
-- One statement, which can be repeated: MySQL commits every change of a table at once, so a
-- migration that was interrupted is run again.
CREATE TABLE IF NOT EXISTS lobbyd_rooms (
    id                  BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    token               VARCHAR(32) NOT NULL,
    type                SMALLINT NOT NULL,
    name                VARCHAR(255) NOT NULL DEFAULT '',
    description         TEXT NOT NULL DEFAULT (''),
    object_type         VARCHAR(64) NOT NULL DEFAULT '',
    object_id           VARCHAR(64) NOT NULL DEFAULT '',
    lobby_state         SMALLINT NOT NULL DEFAULT 0,
    -- The instant of the reset, in whole seconds.
    lobby_timer         DATETIME,
    -- Milliseconds since 1970 of the last change, strictly growing.
    lobby_version       BIGINT NOT NULL DEFAULT 0,
    -- The timer that last reset the room.
    lobby_timer_reached DATETIME,
    sip_enabled         SMALLINT NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_rooms_token_key UNIQUE (token),
    CONSTRAINT lobbyd_rooms_type_check CHECK (type BETWEEN 1 AND 6),
    CONSTRAINT lobbyd_rooms_lobby_state_check CHECK (lobby_state IN (0, 1)),
    CONSTRAINT lobbyd_rooms_lobby_timer_check CHECK (lobby_timer >= '1970-01-01 00:00:00'),
    CONSTRAINT lobbyd_rooms_sip_enabled_check CHECK (sip_enabled IN (0, 1, 2)),
    -- What is due. MySQL has no partial index, so rooms without a timer are in it too; a search
    -- for due timers is a range that never touches them.
    INDEX lobbyd_rooms_lobby_timer_idx (lobby_timer, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
