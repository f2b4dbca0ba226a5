-- Two users for lobbyd on MariaDB. lobbyd_owner owns the tables: `lobbyd migrate` and `lobbyd user`
-- log in as it. lobbyd runs worker and API: it changes rows, never tables.
--
-- As root, before the first `lobbyd migrate`:
--
--     mariadb < roles.sql
--
-- Both are locked until they are given a password:
--
--     ALTER USER lobbyd_owner IDENTIFIED BY '…' ACCOUNT UNLOCK;
--     ALTER USER lobbyd IDENTIFIED BY '…' ACCOUNT UNLOCK;
--
-- MariaDB can grant nothing in tables that are not there yet, so lobbyd gets its rights from
-- grants.sql, after each `lobbyd migrate`.

CREATE DATABASE IF NOT EXISTS lobbyd CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE USER lobbyd_owner ACCOUNT LOCK;
CREATE USER lobbyd ACCOUNT LOCK;

GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON lobbyd.* TO lobbyd_owner;
