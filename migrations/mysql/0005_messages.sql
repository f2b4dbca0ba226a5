-- Messages of the chats. Times are Unix seconds. There is no foreign key to lobbyd_rooms, which may
-- be a view.
CREATE TABLE IF NOT EXISTS lobbyd_messages (
    id           BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    room_id      BIGINT NOT NULL,
    actor_type   VARCHAR(32) NOT NULL,
    actor_id     VARCHAR(64) NOT NULL,
    actor_name   VARCHAR(255) NOT NULL DEFAULT '',
    created_at   BIGINT NOT NULL,
    -- Empty for a chat message, comment_deleted for a deleted one, otherwise the name of the
    -- system message.
    kind         VARCHAR(64) NOT NULL DEFAULT '',
    message      MEDIUMTEXT NOT NULL DEFAULT (''),
    -- JSON of the participants that the message mentions; empty for none.
    mentions     TEXT NOT NULL DEFAULT (''),
    -- The participant that a system message is about, or that deleted the message.
    about_type   VARCHAR(32),
    about_id     VARCHAR(64),
    about_name   VARCHAR(255),
    reference_id VARCHAR(64) NOT NULL DEFAULT '',
    parent_id    BIGINT,
    INDEX lobbyd_messages_room_idx (room_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
