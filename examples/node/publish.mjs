// Publish one image as a job, and wait until the broker has it.
//
//   npm ci
//   node publish.mjs captcha.png     prints the job's id; without a file, the image is noise
//   node publish.mjs --id ID …       once more, where it is not known whether the broker has it
//   node consume.mjs                 its outcome: see there
//
// AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the
// namespace (captcha).

import { parseArgs } from "node:util";
import amqp from "amqplib";
import { jobOf, leave, publish, reader, refuse, url } from "./contract.mjs";

const { values, positionals } = parseArgs({
  options: { schema: { type: "string" }, id: { type: "string" } },
  allowPositionals: true,
});

async function main() {
  const job = await jobOf(positionals[0], values.id);
  // Here it is the schema of a job: what is refused by it would only come back as a dead letter.
  (await reader(values.schema))(JSON.stringify(job));
  const connection = await amqp.connect(url, { timeout: 30_000 });
  // Whoever awaits something is told by its rejection; without a listener this would end the
  // program before that.
  connection.on("error", () => {});
  try {
    await publish(await connection.createConfirmChannel(), job);
    console.log(job.id);
  } finally {
    await leave(connection);
  }
}

await main().catch(refuse);
// A connection that could not be left in order would keep the program alive.
process.exit();
