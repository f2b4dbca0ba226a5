-- Users of this server, and their groups.
CREATE TABLE lobbyd_users (
    id            VARCHAR(64) NOT NULL PRIMARY KEY,
    display_name  VARCHAR(255) NOT NULL DEFAULT '',
    -- Argon2id, in the PHC string format.
    password_hash VARCHAR(255) NOT NULL
);

CREATE TABLE lobbyd_user_groups (
    user_id VARCHAR(64) NOT NULL,
    name    VARCHAR(64) NOT NULL,
    PRIMARY KEY (user_id, name)
);
