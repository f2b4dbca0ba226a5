-- The rights of the user lobbyd in each table, on MariaDB. Run it as root, after each
-- `lobbyd migrate`:
--
--     mariadb lobbyd < grants.sql

-- Rooms and their participants. Locking a row requires the right to update it.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_rooms TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_room_states TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_attendees TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_sessions TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_bans TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_messages TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_outbox TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_inbox TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_signaling_servers TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_signaling_changes TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_signaling_updates TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_talk_timers TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_talk_lobbies TO lobbyd;

-- Worker and API only read users. But when lobbyd starts, MariaDB checks all of its statements,
-- including those of `lobbyd user`, and refuses them if a right is missing.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_users TO lobbyd;
GRANT SELECT, INSERT, DELETE ON lobbyd_user_groups TO lobbyd;

-- The key of cookies, which the first API process writes, and the version of the users, which is
-- locked when a user joins a room.
GRANT SELECT, UPDATE ON lobbyd_auth TO lobbyd;
