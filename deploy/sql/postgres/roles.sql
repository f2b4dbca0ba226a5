-- Two roles for lobbyd on PostgreSQL. lobbyd_owner owns the tables: `lobbyd migrate` and `lobbyd user`
-- log in as it. lobbyd runs worker and API: it changes rows, never tables.
--
-- As a superuser, in a database of lobbyd's own, before the first `lobbyd migrate`:
--
--     createdb lobbyd
--     psql --dbname lobbyd --file roles.sql
--
-- Then give both a password in psql, with \password lobbyd_owner and \password lobbyd: without one
-- PostgreSQL lets nobody in who has to show it. After each `lobbyd migrate`, run grants.sql.

\set ON_ERROR_STOP on
BEGIN;

CREATE ROLE lobbyd_owner LOGIN;
CREATE ROLE lobbyd LOGIN;

-- Before PostgreSQL 15 everybody may make tables in the schema public, and in all versions temporary
-- ones. Where others share the database, see first that none of them lives on these rights.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

GRANT CONNECT ON DATABASE :"DBNAME" TO lobbyd_owner, lobbyd;
GRANT USAGE, CREATE ON SCHEMA public TO lobbyd_owner;
GRANT USAGE ON SCHEMA public TO lobbyd;

-- A table that a later migration makes can be used at once. grants.sql narrows it down.
ALTER DEFAULT PRIVILEGES FOR ROLE lobbyd_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO lobbyd;

COMMIT;
