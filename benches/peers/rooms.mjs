// What a job has to do for a room, and the protocol with the benchmark.

import { createInterface } from 'node:readline';

// Jobs that one statement adds.
const CHUNK = 5000;

// Resets the rooms that still have their timer, and writes beside each of them a message of the
// chat and a row of the outbox, as lobbyd does. `jobs` has their ids and timers.
const statement = (jobs) => `
  WITH reset AS (
    UPDATE lobbyd_rooms AS room
    SET lobby_state = 0, lobby_timer = NULL, lobby_version = room.lobby_version + 1,
        lobby_timer_reached = room.lobby_timer
    FROM ${jobs} AS job(id, timer)
    WHERE room.id = job.id AND room.lobby_timer = to_timestamp(job.timer)
      AND room.lobby_timer <= now()
    RETURNING room.id, room.token, room.type, room.sip_enabled, room.lobby_version,
              room.lobby_timer_reached
  ), message AS (
    INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
    SELECT id, floor(extract(epoch FROM now())), 'guests', 'system', 'lobby_timer_reached' FROM reset
  )
  INSERT INTO lobbyd_outbox (id, type, token, data, created_at, due_at, available_at)
  SELECT concat('019c0000-0000-7000-8000-', lpad(to_hex(id), 12, '0')), 'room.updated.v1', token,
         concat('{"token":"', token, '","type":', type, ',"lobbyState":0,"lobbyTimer":0,',
                '"sipEnabled":', sip_enabled, ',"version":', lobby_version,
                ',"reason":"lobby_timer_reached","dueAt":"2026-01-01T00:00:00Z",',
                '"firedAt":"2026-01-01T00:00:00.002Z"}'),
         now(), lobby_timer_reached, now()
  FROM reset`;

const OPEN = statement('(VALUES ($1::bigint, $2::bigint))');
const OPEN_SET = statement('unnest($1::bigint[], $2::bigint[])');

// Opens the room of a job by a prepared statement.
export async function open(pool, job) {
  await pool.query({ name: 'open', text: OPEN, values: [job.id, job.timer] });
}

// Opens the rooms of these jobs by one prepared statement.
export async function openSet(pool, jobs) {
  const values = [jobs.map((job) => job.id), jobs.map((job) => job.timer)];
  await pool.query({ name: 'open set', text: OPEN_SET, values });
}

// A job for each room with a timer, in chunks.
export async function jobs(pool) {
  const { rows } = await pool.query(
    'SELECT id::int, floor(extract(epoch FROM lobby_timer))::int AS timer FROM lobbyd_rooms ORDER BY id');
  return Array.from({ length: Math.ceil(rows.length / CHUNK) },
    (_, chunk) => rows.slice(chunk * CHUNK, (chunk + 1) * CHUNK));
}

// Waits until the benchmark starts the run.
export async function started() {
  console.log('ready');
  for await (const _line of createInterface({ input: process.stdin })) return;
}

// Reports how many seconds the run took, and ends.
export function finished(begin) {
  console.log((performance.now() - begin) / 1000);
  process.exit(0);
}
