-- lobbyd_rooms as a view over the table in which a backend keeps its conversations, on MariaDB: an
-- example. The table is named and typed like that of Nextcloud Talk, in the same database:
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
--         sip_enabled SMALLINT UNSIGNED NOT NULL DEFAULT 0
--         -- and others, all with a default
--     ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
--
-- As root, after `lobbyd migrate`, while no lobbyd runs: `mariadb lobbyd < conversations-view.sql`.
-- ../README.md explains it.

-- The table that `lobbyd migrate` made has to be empty, and makes room.
DELIMITER //
BEGIN NOT ATOMIC
    IF EXISTS (SELECT 1 FROM lobbyd_rooms) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'lobbyd_rooms holds rooms: move them first';
    END IF;
END //
DELIMITER ;

-- lobbyd reads these as text, and NULL is none.
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
    -- What lobbyd keeps beside the lobby: the version of the last change, and the timer that last
    -- reset the room.
    ADD COLUMN lobby_version BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lobby_timer_reached DATETIME,
    -- What is due.
    ADD INDEX lobbyd_rooms_lobby_timer_idx (lobby_timer, id);

DROP TABLE lobbyd_rooms;

-- Plain columns of one table, so that rows can be changed, made and deleted through it.
CREATE VIEW lobbyd_rooms AS
SELECT id, token, type, name, description, object_type, object_id, lobby_state, lobby_timer,
       lobby_version, lobby_timer_reached, sip_enabled
FROM oc_talk_rooms;

-- Who uses a view needs rights on it alone; those on the table are checked of who made it.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_rooms TO lobbyd;
