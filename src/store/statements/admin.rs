//! The database's time, and what waits in it.

macro_rules! backlog {
    ($database:ident) => {
        concat!(
            "SELECT (SELECT count(*) FROM (
                    SELECT 1 AS one FROM lobbyd_rooms WHERE ",
            has_timer!($database),
            " LIMIT $1) AS timers) AS timers_pending,
               (SELECT ",
            sum_of_events!($database),
            " FROM (
                    SELECT events FROM lobbyd_outbox
                    WHERE published_at IS NULL LIMIT $2) AS pending) AS outbox_pending"
        )
    };
}

/// Timers that fired. The column `due_at` is only set where the lag counts.
macro_rules! fired_since {
    ($database:ident $since:literal) => {
        concat!(
            "SELECT ",
            sum_of_events!($database),
            " AS number FROM lobbyd_outbox
            WHERE data LIKE '%\"lobby_timer_reached\"%' AND created_at >= ",
            $since
        )
    };
}

statements! {
    /// → microseconds.
    NOW:
        postgres "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now",
        mysql "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now",
        sqlite "SELECT CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000 AS now";

    /// limit, limit → pending timers and pending events, each up to the limit.
    BACKLOG:
        postgres backlog!(postgres),
        mysql backlog!(mysql),
        sqlite backlog!(sqlite);

    /// → timers of rooms that cannot have a lobby.
    UNUSABLE_TIMERS: portable concat!(
        "SELECT count(*) AS number FROM lobbyd_rooms
        WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND NOT (",
        can_have_lobby!(),
        ")"
    );

    /// since (milliseconds) → number.
    FIRED_SINCE:
        postgres fired_since!(postgres "to_timestamp($1 / 1000.0)"),
        mysql fired_since!(mysql "TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND"),
        sqlite fired_since!(sqlite "strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')");
}
