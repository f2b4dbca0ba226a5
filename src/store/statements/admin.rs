//! The database's time, and what waits in it.

macro_rules! backlog {
    ($oldest:literal) => {
        concat!(
            "\
            SELECT (SELECT count(*) FROM lobbyd_rooms
                    WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND ",
            usable!(),
            ") AS timers_pending,
                   (SELECT count(*) FROM lobbyd_rooms
                    WHERE lobby_timer IS NOT NULL AND NOT (",
            usable!(),
            ")) AS timers_unusable,
                   (SELECT count(*) FROM lobbyd_outbox
                    WHERE published_at IS NULL) AS outbox_pending,
                   (SELECT ",
            $oldest,
            "
                    FROM lobbyd_outbox WHERE published_at IS NULL) AS outbox_oldest"
        )
    };
}

statements! {
    /// → milliseconds.
    NOW:
        postgres "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now",
        mysql "SELECT CAST(FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED) AS now",
        sqlite "SELECT CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) AS now";

    /// → pending timers, unusable timers, pending events, milliseconds of the oldest of them.
    BACKLOG:
        postgres backlog!("floor(extract(epoch FROM min(created_at)) * 1000)::bigint"),
        mysql backlog!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', min(created_at)) DIV 1000"),
        sqlite backlog!("CAST(round(unixepoch(min(created_at), 'subsec') * 1000) AS INTEGER)");

    /// since (milliseconds) → number.
    FIRED_SINCE:
        postgres "\
            SELECT count(*) AS number FROM lobbyd_outbox
            WHERE due_at IS NOT NULL AND created_at >= to_timestamp($1 / 1000.0)",
        mysql "\
            SELECT count(*) AS number FROM lobbyd_outbox
            WHERE due_at IS NOT NULL
              AND created_at >= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND",
        sqlite "\
            SELECT count(*) AS number FROM lobbyd_outbox
            WHERE due_at IS NOT NULL
              AND created_at >= strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')";
}
