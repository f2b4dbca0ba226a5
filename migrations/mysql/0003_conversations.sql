-- What the HTTP API keeps beside the rooms. Instants are Unix seconds, as its clients see them; 0
-- stands for none. There are no foreign keys to lobbyd_rooms, which may be a view.
-- All of it can be repeated, as MySQL needs it.

CREATE TABLE IF NOT EXISTS lobbyd_users (
    id            VARCHAR(64) NOT NULL PRIMARY KEY,
    display_name  VARCHAR(255) NOT NULL DEFAULT '',
    -- Argon2id, in the PHC string format.
    password_hash VARCHAR(255) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS lobbyd_user_groups (
    user_id VARCHAR(64) NOT NULL,
    name    VARCHAR(64) NOT NULL,
    PRIMARY KEY (user_id, name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- A room without a row here has no password, no call, and nothing was said in it.
CREATE TABLE IF NOT EXISTS lobbyd_room_states (
    room_id         BIGINT NOT NULL PRIMARY KEY,
    password_hash   VARCHAR(255) NOT NULL DEFAULT '',
    call_started_at BIGINT NOT NULL DEFAULT 0,
    call_flags      BIGINT NOT NULL DEFAULT 0,
    -- Chat messages, system messages not counted.
    comments        BIGINT NOT NULL DEFAULT 0,
    -- The last change that the chat does not show.
    changed_at      BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

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
    -- The room's comments at that message.
    comments_read     BIGINT NOT NULL DEFAULT 0,
    read_at           BIGINT NOT NULL DEFAULT 0,
    -- Presence in the room, from joining to leaving.
    session_id        VARCHAR(255),
    in_call           BIGINT NOT NULL DEFAULT 0,
    last_ping         BIGINT NOT NULL DEFAULT 0,
    -- The last sign of life, noted now and then.
    seen_at           BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT lobbyd_attendees_actor_key UNIQUE (room_id, actor_type, actor_id),
    CONSTRAINT lobbyd_attendees_pin_key UNIQUE (room_id, pin),
    KEY lobbyd_attendees_in_call_idx (room_id, in_call),
    INDEX lobbyd_attendees_actor_idx (actor_type, actor_id),
    INDEX lobbyd_attendees_read_at_idx (read_at),
    INDEX lobbyd_attendees_last_ping_idx (last_ping)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS lobbyd_messages (
    id           BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    room_id      BIGINT NOT NULL,
    actor_type   VARCHAR(32) NOT NULL,
    actor_id     VARCHAR(64) NOT NULL,
    actor_name   VARCHAR(255) NOT NULL DEFAULT '',
    created_at   BIGINT NOT NULL,
    -- Empty for a chat message, else the name of the system message.
    kind         VARCHAR(64) NOT NULL DEFAULT '',
    message      MEDIUMTEXT NOT NULL DEFAULT (''),
    -- Whom a system message is about.
    about_type   VARCHAR(32),
    about_id     VARCHAR(64),
    about_name   VARCHAR(255),
    reference_id VARCHAR(64) NOT NULL DEFAULT '',
    parent_id    BIGINT,
    INDEX lobbyd_messages_room_idx (room_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
