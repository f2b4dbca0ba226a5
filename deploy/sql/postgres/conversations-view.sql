-- An example for PostgreSQL: lobbyd_rooms as a view on the table in which a backend keeps its
-- conversations. Names and types are those of Nextcloud Talk, but do not use it with a live Talk: see
-- ../README.md.
--
--     CREATE TABLE oc_talk_rooms (
--         id          SERIAL PRIMARY KEY,
--         token       VARCHAR(32) DEFAULT '' UNIQUE,
--         type        INTEGER NOT NULL,
--         name        VARCHAR(255) DEFAULT '',
--         description TEXT DEFAULT '',
--         object_type VARCHAR(64) DEFAULT '',
--         object_id   VARCHAR(64) DEFAULT '',
--         lobby_state INTEGER NOT NULL DEFAULT 0,
--         lobby_timer TIMESTAMP(0) WITHOUT TIME ZONE,      -- UTC
--         sip_enabled SMALLINT NOT NULL DEFAULT 0,
--         remote_server VARCHAR(512) DEFAULT NULL
--         -- and others, all with a default
--     );
--
-- Run it as a superuser, after `lobbyd migrate`, while no lobbyd process runs. ../README.md
-- explains it.

\set ON_ERROR_STOP on
BEGIN;

-- What lobbyd stores in addition to the lobby: the version of the last change, and the timer that
-- last reset the room.
ALTER TABLE oc_talk_rooms
    ADD COLUMN lobby_version BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lobby_timer_reached TIMESTAMP(0) WITHOUT TIME ZONE;

-- lobbyd reads these columns as text, and does not expect NULL.
UPDATE oc_talk_rooms
SET token = coalesce(token, ''), name = coalesce(name, ''), description = coalesce(description, ''),
    object_type = coalesce(object_type, ''), object_id = coalesce(object_id, '')
WHERE token IS NULL OR name IS NULL OR description IS NULL OR object_type IS NULL
   OR object_id IS NULL;
ALTER TABLE oc_talk_rooms
    ALTER COLUMN token SET NOT NULL,
    ALTER COLUMN name SET NOT NULL,
    ALTER COLUMN description SET NOT NULL, ALTER COLUMN description SET DEFAULT '',
    ALTER COLUMN object_type SET NOT NULL,
    ALTER COLUMN object_id SET NOT NULL;

-- The view replaces the table that `lobbyd migrate` created, so that table has to be empty.
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM lobbyd_rooms) THEN
        RAISE EXCEPTION 'lobbyd_rooms holds rooms: move them first';
    END IF;
END
$$;
DROP TABLE lobbyd_rooms;

-- lobbyd reads the id as a bigint. All others are plain columns, so that they can be written. Copies
-- of rooms of other servers are those servers' to open.
CREATE VIEW lobbyd_rooms AS
SELECT id::bigint AS id, token, type, name, description, object_type, object_id, lobby_state,
       lobby_timer, lobby_version, lobby_timer_reached, sip_enabled
FROM oc_talk_rooms
WHERE coalesce(remote_server, '') = '';

-- To find due rooms, and a room by its id.
CREATE INDEX lobbyd_rooms_due_idx ON oc_talk_rooms (lobby_timer, (id::bigint))
    WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND type IN (2, 3) AND object_type IN
          ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting');
CREATE UNIQUE INDEX lobbyd_rooms_id_idx ON oc_talk_rooms ((id::bigint));

-- A user of the view needs rights on the view only; PostgreSQL checks the rights of the view's
-- owner on the table. The sequence is an exception: lobbyd draws the id when it creates a room.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_rooms TO lobbyd;
GRANT USAGE ON SEQUENCE oc_talk_rooms_id_seq TO lobbyd;

COMMIT;
