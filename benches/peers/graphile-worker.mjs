// graphile-worker with one handler call for each job: it has no handlers of sets.
//
// Jobs are fetched and completed in batches, and run concurrently. Of the concurrencies 10, 24 and 40
// the chosen one was fastest.

import { Logger, run, runMigrations } from 'graphile-worker';
import pg from 'pg';

import { finished, jobs, open, started } from './rooms.mjs';

const CONCURRENCY = 24;

const pgPool = new pg.Pool({ connectionString: process.argv[2], max: CONCURRENCY + 2 });
pgPool.on('error', (error) => { throw error; });
pgPool.on('connect', (client) => client.on('error', (error) => { throw error; }));
const logger = new Logger(() => () => {});
await runMigrations({ pgPool, logger });
const chunks = await jobs(pgPool);
for (const chunk of chunks) {
  await pgPool.query(
    `SELECT count(*) FROM graphile_worker.add_jobs((
       SELECT array_agg(('open', json_build_object('id', id, 'timer', timer), NULL,
                         to_timestamp(timer), NULL, NULL, NULL, NULL)::graphile_worker.job_spec)
       FROM json_to_recordset($1) AS job(id bigint, timer bigint)))`,
    [JSON.stringify(chunk)]);
}
await pgPool.query('VACUUM ANALYZE');
let left = chunks.flat().length;

await started();
const begin = performance.now();
await run({
  pgPool,
  logger,
  noHandleSignals: true,
  preset: {
    worker: {
      concurrentJobs: CONCURRENCY,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  },
  taskList: {
    open: async (job) => {
      await open(pgPool, job);
      left -= 1;
      if (left === 0) finished(begin);
    },
  },
});
