// pg-boss with one handler call for each job, or with a handler of sets: one statement for a batch.
//
// It fetches and completes batches as its own worker does, but without that worker's pause between
// two polls. Of batches of 200 to 5000 and of 1, 2 and 4 loops the chosen ones were fastest.

import pg from 'pg';
import PgBoss from 'pg-boss';

import { finished, jobs, open, openSet, started } from './rooms.mjs';

const [, , connectionString, handler] = process.argv;
const CONNECTIONS = 20;
const QUEUE = 'open';

const boss = new PgBoss({ connectionString, max: CONNECTIONS, supervise: false, schedule: false });
boss.on('error', (error) => { throw error; });
await boss.start();
await boss.createQueue(QUEUE);
const pool = new pg.Pool({ connectionString, max: CONNECTIONS });
for (const chunk of await jobs(pool)) {
  await boss.insert(chunk.map((job) => ({ name: QUEUE, data: job, startAfter: new Date(job.timer * 1000) })));
}
await pool.query('VACUUM ANALYZE');

const { batchSize, loops, handle } = {
  each: {
    batchSize: 2000,
    loops: 1,
    handle: (batch) => Promise.all(batch.map((job) => open(pool, job.data))),
  },
  sets: {
    batchSize: 5000,
    loops: 2,
    handle: (batch) => openSet(pool, batch.map((job) => job.data)),
  },
}[handler];

async function work() {
  for (;;) {
    const batch = await boss.fetch(QUEUE, { batchSize });
    if (batch.length === 0) return;
    await handle(batch);
    await boss.complete(QUEUE, batch.map((job) => job.id));
  }
}

await started();
const begin = performance.now();
await Promise.all(Array.from({ length: loops }, work));
finished(begin);
