-- Two roles for lobbyd on PostgreSQL. lobbyd_owner owns the tables: `lobbyd migrate` and
-- `lobbyd user` log in as lobbyd_owner. Worker and API log in as lobbyd, which changes rows, never
-- tables.
--
-- Run it as a superuser, in a database for lobbyd alone, before the first `lobbyd migrate`:
--
--     createdb lobbyd
--     psql --dbname lobbyd --file roles.sql
--
-- Then set a password for both in psql, with \password lobbyd_owner and \password lobbyd: without
-- one, PostgreSQL refuses every login that needs a password. Run grants.sql after each
-- `lobbyd migrate`.

\set ON_ERROR_STOP on
BEGIN;

SELECT format('CREATE ROLE %I LOGIN', role) FROM (VALUES ('lobbyd_owner'), ('lobbyd')) AS roles (role)
WHERE role NOT IN (SELECT rolname FROM pg_roles) \gexec

-- By default every role may create temporary tables, and before PostgreSQL 15 also tables in the
-- schema public. If other programs share the database, first check that none of them needs that.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

GRANT CONNECT ON DATABASE :"DBNAME" TO lobbyd_owner, lobbyd;
GRANT USAGE, CREATE ON SCHEMA public TO lobbyd_owner;
GRANT USAGE ON SCHEMA public TO lobbyd;

-- Tables of later migrations can be used at once. grants.sql restricts these rights.
ALTER DEFAULT PRIVILEGES FOR ROLE lobbyd_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO lobbyd;

COMMIT;
