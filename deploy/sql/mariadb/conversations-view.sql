-- An example for MariaDB: lobbyd_rooms as a view on the table in which a backend keeps its
-- conversations. Names and types are those of Nextcloud Talk, but do not use it with a live Talk: see
-- ../README.md. The table is in the same database:
--
--     CREATE TABLE oc_talk_rooms (
--         id          INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
--         token       VARCHAR(32) DEFAULT '' UNIQUE,
--         type        INT NOT NULL,
--         name        VARCHAR(255) DEFAULT '',
--         description LONGTEXT,
--         object_type VARCHAR(64) DEFAULT '',
--         object_id   VARCHAR(64) DEFAULT '',
--         lobby_state INT NOT NULL DEFAULT 0,
--         lobby_timer DATETIME,                            -- UTC
--         sip_enabled SMALLINT UNSIGNED NOT NULL DEFAULT 0,
--         remote_server VARCHAR(512) DEFAULT NULL
--         -- and others, all with a default
--     ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
--
-- Run it as root, after `lobbyd migrate`, while no lobbyd process runs:
--
--     mariadb lobbyd < conversations-view.sql
--
-- ../README.md explains it.

-- The view replaces the table that `lobbyd migrate` created, so that table has to be empty.
DELIMITER //
BEGIN NOT ATOMIC
    IF EXISTS (SELECT 1 FROM lobbyd_rooms) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'lobbyd_rooms holds rooms: move them first';
    END IF;
END //
DELIMITER ;

-- lobbyd reads these columns as text, and does not expect NULL.
UPDATE oc_talk_rooms
SET token = COALESCE(token, ''), name = COALESCE(name, ''), description = COALESCE(description, ''),
    object_type = COALESCE(object_type, ''), object_id = COALESCE(object_id, '')
WHERE token IS NULL OR name IS NULL OR description IS NULL OR object_type IS NULL
   OR object_id IS NULL;
ALTER TABLE oc_talk_rooms
    MODIFY token VARCHAR(32) NOT NULL DEFAULT '',
    MODIFY name VARCHAR(255) NOT NULL DEFAULT '',
    MODIFY description LONGTEXT NOT NULL DEFAULT '',
    MODIFY object_type VARCHAR(64) NOT NULL DEFAULT '',
    MODIFY object_id VARCHAR(64) NOT NULL DEFAULT '',
    -- What lobbyd stores in addition to the lobby: the version of the last change, and the timer
    -- that last reset the room.
    ADD COLUMN lobby_version BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lobby_timer_reached DATETIME,
    -- To find due rooms: the timer, if it can fire. Your own programs do not see this column.
    ADD COLUMN lobby_due_at DATETIME GENERATED ALWAYS AS (
        CASE WHEN lobby_state = 1 AND type IN (2, 3) AND object_type IN
                  ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')
        THEN lobby_timer END
    ) STORED INVISIBLE,
    ADD INDEX lobbyd_rooms_due_idx (lobby_due_at, id);

DROP TABLE lobbyd_rooms;

-- Plain columns of one table, so that rows can be inserted, updated and deleted through the view.
-- Copies of rooms of other servers are those servers' to open.
CREATE VIEW lobbyd_rooms AS
SELECT id, token, type, name, description, object_type, object_id, lobby_state, lobby_timer,
       lobby_version, lobby_timer_reached, sip_enabled, lobby_due_at
FROM oc_talk_rooms
WHERE COALESCE(remote_server, '') = '';

-- A user of the view needs rights on the view only; MariaDB checks the rights of the view's creator
-- on the table.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_rooms TO lobbyd;
