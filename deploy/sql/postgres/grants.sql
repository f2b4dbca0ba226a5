-- The rights of the role lobbyd in each table, on PostgreSQL. Run it after each `lobbyd migrate`,
-- as lobbyd_owner, or as a superuser if lobbyd_rooms is a view:
--
--     psql --dbname lobbyd --file grants.sql

\set ON_ERROR_STOP on
BEGIN;

-- Only the owner needs the list of applied migrations.
REVOKE ALL ON lobbyd_migrations FROM lobbyd;

-- Rooms and their participants. Locking a row requires the right to update it.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON lobbyd_rooms, lobbyd_room_states, lobbyd_attendees, lobbyd_sessions, lobbyd_bans,
       lobbyd_messages, lobbyd_outbox, lobbyd_inbox, lobbyd_signaling_servers,
       lobbyd_signaling_changes, lobbyd_signaling_updates, lobbyd_talk_timers,
       lobbyd_talk_lobbies
    TO lobbyd;

-- `lobbyd user` manages users, as lobbyd_owner. The API only checks passwords.
REVOKE ALL ON lobbyd_users, lobbyd_user_groups FROM lobbyd;
GRANT SELECT ON lobbyd_users, lobbyd_user_groups TO lobbyd;

-- The key of cookies, which the first API process writes, and the version of the users, which is
-- locked when a user joins a room.
REVOKE ALL ON lobbyd_auth FROM lobbyd;
GRANT SELECT, UPDATE ON lobbyd_auth TO lobbyd;

COMMIT;
