// Validates an AsyncAPI document, and prints it as JSON with every reference resolved.
// Exit status 1, and what is wrong on stderr, if it is not valid.
import { Parser, fromFile } from '@asyncapi/parser';

const file = process.argv[2];
const { document, diagnostics } = await fromFile(new Parser(), file).parse();
const errors = diagnostics.filter(({ severity }) => severity === 0);
for (const { message, path } of errors) {
  console.error(`${file}: ${path.join('.')}: ${message}`);
}
if (errors.length > 0 || !document) {
  process.exit(1);
}
console.log(JSON.stringify(document.json()));
