// Publish one image as a job, and wait for its outcome here, by direct reply-to.
//
//   npm ci
//   node request.mjs captcha.png     prints the solution (exit code 0) or the failure (1); 2 where
//                                    no reply came in time, 3 where --schema refuses it
//
// The reply is a copy, transient and sent once: the durable outcome is the one to rely on, and
// comes all the same. Whoever must not miss an answer consumes it (consume.mjs); this is for
// whoever waits right now and can ask again.
//
// AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the
// namespace (captcha).

import { parseArgs } from "node:util";
import amqp from "amqplib";
import { directReply, graceMs, jobOf, leave, patienceMs, publish, reader, refuse, results, url } from "./contract.mjs";

const { values, positionals } = parseArgs({ options: { schema: { type: "string" } }, allowPositionals: true });
const job = await jobOf(positionals[0]);
const read = await reader(values.schema);

const connection = await amqp.connect(url, { timeout: 30_000 });
connection.on("error", (error) => console.error(error.message));
const channel = await connection.createConfirmChannel();
channel.on("error", () => {});
let timer;
const reply = new Promise((resolve) => {
  timer = setTimeout(resolve, patienceMs + graceMs);
  // The address of a direct reply ends with its channel.
  channel.once("close", () => resolve(undefined));
  const onReply = (message) => {
    // Replies to earlier requests of this channel come here too.
    if (message?.properties.correlationId === job.id) resolve(message.content);
  };
  // Direct reply-to wants its consumer first, on the channel that publishes: the broker takes both
  // in this order.
  channel.consume(directReply, onReply, { noAck: true }).catch(() => resolve(undefined));
});
try {
  await publish(channel, job, { correlationId: job.id, replyTo: directReply });
  const content = await reply;
  if (content) {
    const outcome = read(content);
    console.log(JSON.stringify(outcome.status === "solved" ? outcome.solution : outcome.failure));
    process.exitCode = outcome.status === "solved" ? 0 : 1;
  } else {
    console.error(`no reply about ${job.id}: its outcome is, or will be, in ${results} or in a dead-letter queue`);
    process.exitCode = 2;
  }
} catch (error) {
  refuse(error);
} finally {
  clearTimeout(timer);
  await leave(connection);
}
// A connection that could not be left in order would keep the program alive.
process.exit();
