// Holds a document, from standard input, against AsyncAPI's own JSON Schema. Exit code 1 where it
// does not fit.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import Ajv from "ajv";
import addFormats from "ajv-formats";

const schema = createRequire(import.meta.url)("@asyncapi/specs/schemas/3.0.0-without-$id.json");
// Theirs is written for less strict a reader.
const ajv = addFormats(new Ajv({ allErrors: true, strict: false }));
const isValid = ajv.compile(schema);
if (!isValid(JSON.parse(readFileSync(0, "utf8")))) {
  for (const { instancePath, message } of isValid.errors) console.error(`${instancePath || "/"}: ${message}`);
  process.exitCode = 1;
}
