//! Events that were applied and have no version of their own.

statements! {
    /// Writes a row of its own, to learn whether commits are answered.
    PROBE:
        postgres "\
            INSERT INTO lobbyd_inbox (id, applied_at) VALUES ('commit probe', now())
            ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at",
        mysql "\
            INSERT INTO lobbyd_inbox (id, applied_at) VALUES ('commit probe', UTC_TIMESTAMP(3))
            ON DUPLICATE KEY UPDATE applied_at = UTC_TIMESTAMP(3)",
        sqlite "\
            INSERT INTO lobbyd_inbox (id, applied_at)
            VALUES ('commit probe', strftime('%Y-%m-%d %H:%M:%f'))
            ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at";
}
