-- What the user lobbyd may do in each table, on MariaDB. As root, after each `lobbyd migrate`:
--
--     mariadb lobbyd < grants.sql

-- Rooms and who is in them. Locking a row takes the right to update it.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_rooms TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_room_states TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_attendees TO lobbyd;
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_outbox TO lobbyd;

-- What was said is never changed; it goes with its room.
GRANT SELECT, INSERT, DELETE ON lobbyd_messages TO lobbyd;

-- Worker and API only read users. But at its start lobbyd has MariaDB check every statement that it
-- has, those of `lobbyd user` too, and a right that is missing is refused there.
GRANT SELECT, INSERT, UPDATE, DELETE ON lobbyd_users TO lobbyd;
GRANT SELECT, INSERT, DELETE ON lobbyd_user_groups TO lobbyd;
