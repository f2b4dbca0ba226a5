//! What the signaling servers of Talk have yet to be told.
//!
//! Times are milliseconds in these tables, so that most statements are the same in all databases.

/// Locks rows that nothing else has locked.
macro_rules! locked {
    (sqlite $select:literal) => {
        $select
    };
    ($other:ident $select:literal) => {
        concat!($select, " FOR UPDATE SKIP LOCKED")
    };
}

macro_rules! changes {
    ($database:ident) => {
        locked!($database "\
            SELECT id, rooms FROM lobbyd_signaling_changes WHERE id > $1 ORDER BY id LIMIT $2")
    };
}

macro_rules! available {
    ($database:ident) => {
        locked!($database "\
            SELECT token, changes, since, failures FROM lobbyd_signaling_updates
            WHERE server = $1 AND failed = $2 AND available_at <= $3
            ORDER BY available_at, token LIMIT $4")
    };
}

/// Selects rooms that are given up.
macro_rules! given_up {
    ($begin:literal $end:literal) => {
        concat!(
            $begin,
            " FROM lobbyd_signaling_updates
            WHERE changed_at < $1 AND (available_at <= $2 OR available_at > $3) LIMIT $4",
            $end
        )
    };
}

macro_rules! prune {
    ($end:literal) => {
        given_up!("\
            DELETE FROM lobbyd_signaling_updates
            WHERE (server, token) IN (SELECT server, token" $end)
    };
}

macro_rules! add_update {
    ($on_conflict:literal) => {
        concat!(
            "\
            INSERT INTO lobbyd_signaling_updates
                   (server, token, changes, since, changed_at, available_at)
            VALUES ($1, $2, 1, $3, $4, $5) ",
            $on_conflict
        )
    };
}

statements! {
    /// seen at, url.
    SEE_SERVER: portable "UPDATE lobbyd_signaling_servers SET seen_at = $1 WHERE url = $2";

    /// url, seen at.
    ADD_SERVER: portable "INSERT INTO lobbyd_signaling_servers (url, seen_at) VALUES ($1, $2)";

    /// before.
    REMOVE_SERVERS: portable "DELETE FROM lobbyd_signaling_servers WHERE seen_at < $1";

    /// seen since: removes what servers have to be told that no process has had since then.
    REMOVE_UNSEEN: portable "\
        DELETE FROM lobbyd_signaling_updates WHERE server NOT IN (
            SELECT url FROM lobbyd_signaling_servers WHERE seen_at >= $1)";

    /// id, JSON of rooms, created at. Does nothing without servers.
    ADD_CHANGES:
        postgres "\
            INSERT INTO lobbyd_signaling_changes (id, rooms, created_at)
            SELECT $1, $2, $3 WHERE EXISTS (SELECT 1 FROM lobbyd_signaling_servers)",
        mysql "\
            INSERT INTO lobbyd_signaling_changes (id, rooms, created_at)
            SELECT $1, $2, $3 FROM DUAL WHERE EXISTS (SELECT 1 FROM lobbyd_signaling_servers)",
        sqlite "\
            INSERT INTO lobbyd_signaling_changes (id, rooms, created_at)
            SELECT $1, $2, $3 WHERE EXISTS (SELECT 1 FROM lobbyd_signaling_servers)";

    /// after → id of the first change behind that one, created at.
    FIRST_CHANGE: portable "\
        SELECT id, created_at FROM lobbyd_signaling_changes WHERE id > $1 ORDER BY id LIMIT 1";

    /// after, limit → id, JSON of rooms. Locks the rows.
    CHANGES:
        postgres changes!(postgres),
        mysql changes!(mysql),
        sqlite changes!(sqlite);

    /// before.
    PRUNE_CHANGES: portable "DELETE FROM lobbyd_signaling_changes WHERE created_at < $1";

    /// JSON of ids.
    REMOVE_CHANGES:
        postgres "\
            DELETE FROM lobbyd_signaling_changes
            WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
        mysql "\
            DELETE passed FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     id CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS ids
                 STRAIGHT_JOIN lobbyd_signaling_changes AS passed ON passed.id = ids.id",
        sqlite "\
            DELETE FROM lobbyd_signaling_changes WHERE id IN (SELECT value FROM json_each($1))";

    /// now, the same, JSON of token, since, now.
    ADD_UPDATES:
        postgres "\
            INSERT INTO lobbyd_signaling_updates (server, token, changes, since, changed_at, available_at)
            SELECT servers.url, rooms.token, 1, rooms.since, $1, $2
            FROM lobbyd_signaling_servers AS servers
                 CROSS JOIN json_to_recordset(CAST($3 AS json))
                     AS rooms (token text, since bigint)
            ORDER BY servers.url, rooms.token
            ON CONFLICT (server, token) DO UPDATE
            SET changes = lobbyd_signaling_updates.changes + 1, changed_at = $4",
        mysql "\
            INSERT INTO lobbyd_signaling_updates
                   (server, token, changes, since, changed_at, available_at)
            SELECT servers.url, rooms.token, 1, rooms.since, $1, $2
            FROM lobbyd_signaling_servers AS servers
                 CROSS JOIN JSON_TABLE($3, '$[*]' COLUMNS (
                     token VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.token',
                     since BIGINT PATH '$.since'
                 )) AS rooms
            ORDER BY servers.url, rooms.token
            ON DUPLICATE KEY UPDATE
                changes = lobbyd_signaling_updates.changes + 1, changed_at = $4",
        // The condition tells the parser that ON does not belong to a join.
        sqlite "\
            INSERT INTO lobbyd_signaling_updates
                   (server, token, changes, since, changed_at, available_at)
            SELECT servers.url, rooms.value ->> 'token', 1, rooms.value ->> 'since', $1, $2
            FROM lobbyd_signaling_servers AS servers, json_each($3) AS rooms WHERE TRUE
            ON CONFLICT (server, token) DO UPDATE SET changes = changes + 1, changed_at = $4";

    /// server, token, now, the same, the same: as if the room had changed once more.
    ADD_UPDATE:
        postgres add_update!("ON CONFLICT (server, token) DO UPDATE
            SET changes = lobbyd_signaling_updates.changes + 1"),
        mysql add_update!("ON DUPLICATE KEY UPDATE changes = changes + 1"),
        sqlite add_update!("ON CONFLICT (server, token) DO UPDATE SET changes = changes + 1");

    /// server, whether it failed, now, limit → token, changes, since, failures. Locks the rows.
    AVAILABLE:
        postgres available!(postgres),
        mysql available!(mysql),
        sqlite available!(sqlite);

    /// until, server, token.
    CLAIM: portable "\
        UPDATE lobbyd_signaling_updates SET available_at = $1 WHERE server = $2 AND token = $3";

    /// until, server, token, end of the claim.
    EXTEND: portable "\
        UPDATE lobbyd_signaling_updates SET available_at = $1
        WHERE server = $2 AND token = $3 AND available_at = $4";

    /// server, token, end of the claim, changes.
    REMOVE_UPDATE: portable "\
        DELETE FROM lobbyd_signaling_updates
        WHERE server = $1 AND token = $2 AND available_at = $3 AND changes = $4";

    /// available at, server, token, end of the claim: the room has to be told once more.
    RESTART: portable "\
        UPDATE lobbyd_signaling_updates
        SET available_at = $1, since = changed_at, failures = 0, failed = 0
        WHERE server = $2 AND token = $3 AND available_at = $4";

    /// available at, failures, whether it failed, server, token, end of the claim.
    RELEASE: portable "\
        UPDATE lobbyd_signaling_updates SET available_at = $1, failures = $2, failed = $3
        WHERE server = $4 AND token = $5 AND available_at = $6";

    /// room → ids of its users.
    USERS: portable "\
        SELECT actor_id FROM lobbyd_attendees
        WHERE room_id = $1 AND actor_type = 'users' ORDER BY actor_id";

    /// failures of a refused room, the same, server, the same, limit → pending, refused, oldest, failed
    /// (1 if there is a failed room).
    BACKLOG: portable "\
        SELECT count(*) AS pending, count(CASE WHEN failures >= $1 THEN 1 END) AS refused,
               min(CASE WHEN failures < $2 THEN since END) AS oldest,
               (SELECT count(*) FROM (
                   SELECT 1 FROM lobbyd_signaling_updates
                   WHERE server = $3 AND failed = 1 LIMIT 1
               ) AS first_failed) AS failed
        FROM (
            SELECT failures, since FROM lobbyd_signaling_updates
            WHERE server = $4 LIMIT $5
        ) AS updates";

    /// before, now, latest end of a claim, limit: gives up rooms whose last change was before, except
    /// those that may be claimed.
    PRUNE:
        postgres prune!(" FOR UPDATE SKIP LOCKED)"),
        mysql given_up!("DELETE" ""),
        sqlite prune!(")");
}
