-- The event that set a room's timer, for the trace of its firing.
CREATE TABLE lobbyd_timer_causes (
    room_id     INTEGER NOT NULL PRIMARY KEY,
    -- The timer that is meant, in Unix seconds: the room may have another one by now.
    timer       INTEGER NOT NULL,
    -- The event's place in its trace, as in W3C Trace Context.
    traceparent TEXT NOT NULL
);
