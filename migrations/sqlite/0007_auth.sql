-- What API processes share about users and their clients: one row.
CREATE TABLE lobbyd_auth (
    id            INTEGER PRIMARY KEY,
    -- Authenticates the cookies of clients. Written by the first API process.
    client_key     TEXT NOT NULL DEFAULT '',
    -- Grows when a user is removed or has another password.
    users_version INTEGER NOT NULL DEFAULT 0
);

INSERT INTO lobbyd_auth (id) VALUES (1);
