-- What the role lobbyd may do in each table, on PostgreSQL. After each `lobbyd migrate`, as
-- lobbyd_owner, or as a superuser where lobbyd_rooms is a view:
--
--     psql --dbname lobbyd --file grants.sql

\set ON_ERROR_STOP on
BEGIN;

-- What migrations have been applied is the owner's affair.
REVOKE ALL ON lobbyd_migrations FROM lobbyd;

-- Rooms and who is in them. Locking a row takes the right to update it.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON lobbyd_rooms, lobbyd_room_states, lobbyd_attendees, lobbyd_outbox TO lobbyd;

-- What was said is never changed; it goes with its room.
REVOKE ALL ON lobbyd_messages FROM lobbyd;
GRANT SELECT, INSERT, DELETE ON lobbyd_messages TO lobbyd;

-- Users are made by `lobbyd user`, as lobbyd_owner. The API only checks passwords.
REVOKE ALL ON lobbyd_users, lobbyd_user_groups FROM lobbyd;
GRANT SELECT ON lobbyd_users, lobbyd_user_groups TO lobbyd;

COMMIT;
