-- Users of this server, and their groups.
CREATE TABLE lobbyd_users (
    id            TEXT NOT NULL PRIMARY KEY,
    display_name  TEXT NOT NULL DEFAULT '',
    -- Argon2id, in the PHC string format.
    password_hash TEXT NOT NULL
);

CREATE TABLE lobbyd_user_groups (
    user_id TEXT NOT NULL,
    name    TEXT NOT NULL,
    PRIMARY KEY (user_id, name)
);
