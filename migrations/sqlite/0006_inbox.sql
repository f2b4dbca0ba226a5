-- Lobby changes that were applied and have neither a version nor a time: their redelivery changes
-- nothing.
CREATE TABLE lobbyd_inbox (
    -- Of the message id, or of the body.
    id         TEXT NOT NULL PRIMARY KEY,
    applied_at TEXT NOT NULL
);

CREATE INDEX lobbyd_inbox_applied_at_idx ON lobbyd_inbox (applied_at);
