//! Actors who may not join a room.

statements! {
    /// room → the columns of [`ban`](crate::store::rows::ban).
    OF_ROOM: portable "\
        SELECT id, actor_type, actor_id, display_name, moderator_id, moderator_name, note,
               created_at
        FROM lobbyd_bans WHERE room_id = $1 ORDER BY id";

    /// room, kind of actor, actor → how many bans others have there.
    COUNT_OF_OTHERS: portable "\
        SELECT count(*) AS number FROM lobbyd_bans
        WHERE room_id = $1 AND NOT (actor_type = $2 AND actor_id = $3)";

    /// room, kind of actor, actor → how many bans the actor has there.
    COUNT: portable "\
        SELECT count(*) AS number FROM lobbyd_bans
        WHERE room_id = $1 AND actor_type = $2 AND actor_id = $3";

    /// room, kind of actor, actor, display name, moderator, their display name, note, now (seconds).
    INSERT: portable "\
        INSERT INTO lobbyd_bans (room_id, actor_type, actor_id, display_name, moderator_id,
                                 moderator_name, note, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

    /// room, kind of actor, actor.
    DELETE_OF_ACTOR: portable
        "DELETE FROM lobbyd_bans WHERE room_id = $1 AND actor_type = $2 AND actor_id = $3";

    /// room, ban.
    DELETE: portable "DELETE FROM lobbyd_bans WHERE room_id = $1 AND id = $2";

    /// user.
    DELETE_OF_USER: portable
        "DELETE FROM lobbyd_bans WHERE actor_type = 'users' AND actor_id = $1";

    /// room.
    DELETE_OF_ROOM: portable "DELETE FROM lobbyd_bans WHERE room_id = $1";
}
