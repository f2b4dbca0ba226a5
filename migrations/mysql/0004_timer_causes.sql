-- The event that set a room's timer, for the trace of its firing.
CREATE TABLE IF NOT EXISTS lobbyd_timer_causes (
    room_id     BIGINT NOT NULL PRIMARY KEY,
    -- The timer that is meant, in Unix seconds: the room may have another one by now.
    timer       BIGINT NOT NULL,
    -- The event's place in its trace, as in W3C Trace Context.
    traceparent VARCHAR(55) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
