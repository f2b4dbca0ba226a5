-- What API processes share about users and their clients: one row.
CREATE TABLE IF NOT EXISTS lobbyd_auth (
    id            BIGINT NOT NULL PRIMARY KEY,
    -- Authenticates the cookies of clients. Written by the first API process.
    client_key     VARCHAR(64) NOT NULL DEFAULT '',
    -- Grows when a user is removed or has another password.
    users_version BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO lobbyd_auth (id) VALUES (1);
