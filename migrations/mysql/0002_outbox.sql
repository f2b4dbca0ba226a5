-- Events until their publisher confirm, and for some time afterwards as history.
CREATE TABLE IF NOT EXISTS lobbyd_outbox (
    -- A UUID: the id of the event, the same in every publication.
    id           VARCHAR(36) NOT NULL PRIMARY KEY,
    type         VARCHAR(64) NOT NULL,
    token        VARCHAR(32) NOT NULL,
    -- Number of events. Those of many rooms that changed at once share a row: then id and token are
    -- those of the first one.
    events       INTEGER NOT NULL DEFAULT 1,
    -- JSON text: the event's data. Of several events an array of {id, token, data, due_at}.
    data         MEDIUMTEXT NOT NULL,
    created_at   DATETIME(3) NOT NULL,
    due_at       DATETIME,
    -- When a worker may claim the event. A claim moves it to the claim's end.
    available_at DATETIME(3) NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    published_at DATETIME(3),
    INDEX lobbyd_outbox_available_at_idx (published_at, available_at, id),
    INDEX lobbyd_outbox_published_at_idx (published_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
