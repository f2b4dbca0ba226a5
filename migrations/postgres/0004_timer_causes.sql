-- The event that set a room's timer, for the trace of its firing.
CREATE TABLE lobbyd_timer_causes (
    room_id     BIGINT NOT NULL PRIMARY KEY,
    -- The timer that is meant, in Unix seconds: the room may have another one by now.
    timer       BIGINT NOT NULL,
    -- The event's place in its trace, as in W3C Trace Context.
    traceparent VARCHAR(55) NOT NULL
);
