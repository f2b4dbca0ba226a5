-- Two users for lobbyd on MariaDB. lobbyd_owner owns the tables: `lobbyd migrate` and `lobbyd user`
-- log in as lobbyd_owner. Worker and API log in as lobbyd, which changes rows, never tables.
--
-- Run it as root, before the first `lobbyd migrate`:
--
--     mariadb < roles.sql
--
-- Both users are locked until you set a password:
--
--     ALTER USER lobbyd_owner IDENTIFIED BY '…' ACCOUNT UNLOCK;
--     ALTER USER lobbyd IDENTIFIED BY '…' ACCOUNT UNLOCK;
--
-- MariaDB cannot grant rights on tables that do not exist yet, so lobbyd gets its rights from
-- grants.sql, after each `lobbyd migrate`.

CREATE DATABASE IF NOT EXISTS lobbyd CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE USER lobbyd_owner ACCOUNT LOCK;
CREATE USER lobbyd ACCOUNT LOCK;

-- MySQL needs the right REFERENCES for foreign keys; MariaDB ignores it.
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, REFERENCES
    ON lobbyd.* TO lobbyd_owner;
