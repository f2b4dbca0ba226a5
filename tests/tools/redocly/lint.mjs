// Lints an OpenAPI document with the recommended rules of Redocly.
// Exit status 1, and what is wrong on stderr, if a rule finds anything.
import { createConfig, lint } from '@redocly/openapi-core';

const ref = process.argv[2];
const problems = await lint({ ref, config: await createConfig({ extends: ['recommended'] }) });
for (const { severity, ruleId, message, location } of problems) {
  console.error(`${severity}: ${ruleId}: ${location[0]?.pointer}: ${message}`);
}
process.exit(problems.length > 0 ? 1 : 0);
