-- Lobby changes that were applied and have neither a version nor a time: their redelivery changes
-- nothing.
CREATE TABLE IF NOT EXISTS lobbyd_inbox (
    -- Of the message id, or of the body.
    id         VARCHAR(255) NOT NULL PRIMARY KEY,
    applied_at DATETIME(3) NOT NULL,
    INDEX lobbyd_inbox_applied_at_idx (applied_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
