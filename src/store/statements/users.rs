//! Users and their groups.

statements! {
    /// id, display name, password hash.
    INSERT: portable
        "INSERT INTO lobbyd_users (id, display_name, password_hash) VALUES ($1, $2, $3)";

    /// user, group.
    INSERT_GROUP: portable "INSERT INTO lobbyd_user_groups (user_id, name) VALUES ($1, $2)";

    /// id → id, display name, password hash. (MySQL finds "alice " for "alice", so the caller
    /// compares the id.)
    USER: portable "SELECT id, display_name, password_hash FROM lobbyd_users WHERE id = $1";

    /// user → names of the groups.
    GROUPS: portable "SELECT name FROM lobbyd_user_groups WHERE user_id = $1 ORDER BY name";

    /// → id, display name.
    USERS: portable "SELECT id, display_name FROM lobbyd_users ORDER BY id";

    /// hash, id.
    SET_PASSWORD: portable "UPDATE lobbyd_users SET password_hash = $1 WHERE id = $2";

    /// id.
    DELETE: portable "DELETE FROM lobbyd_users WHERE id = $1";

    /// key, if there is none.
    INIT_CLIENT_KEY: portable "UPDATE lobbyd_auth SET client_key = $1 WHERE client_key = ''";

    CLIENT_KEY: portable "SELECT client_key FROM lobbyd_auth WHERE id = 1";

    VERSION: portable "SELECT users_version FROM lobbyd_auth WHERE id = 1";

    /// Before users change: waits for the transactions of those who join rooms, and they wait for it.
    NEXT_VERSION: portable "UPDATE lobbyd_auth SET users_version = users_version + 1 WHERE id = 1";

    /// Before a user joins a room.
    LOCK_VERSION:
        postgres "SELECT users_version FROM lobbyd_auth WHERE id = 1 FOR SHARE",
        mysql "SELECT users_version FROM lobbyd_auth WHERE id = 1 LOCK IN SHARE MODE",
        sqlite "SELECT users_version FROM lobbyd_auth WHERE id = 1";

    /// user.
    DELETE_GROUPS: portable "DELETE FROM lobbyd_user_groups WHERE user_id = $1";
}
