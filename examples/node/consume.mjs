// Print outcomes as they come, one JSON object a line, over any trouble with the broker.
//
//   npm ci
//   node consume.mjs                                              solved jobs: captcha.results
//   node consume.mjs captcha.dead.invalid                         one dead-letter queue; its messages hold the whole job for replay
//   node consume.mjs --schema ../../docs/schema/outcome.schema.json
//   node consume.mjs --count 10                                   end after ten
//
// AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the lane (captcha). SIGINT (Ctrl-C) or
// SIGTERM ends it.

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import amqp from "amqplib";
import { reader, refuse, results, Seen, url } from "./contract.mjs";

const { values, positionals } = parseArgs({
  options: { schema: { type: "string" }, count: { type: "string" } },
  allowPositionals: true,
});
const queue = positionals[0] ?? results;
const read = await reader(values.schema);
const seen = new Seen();
const longestPauseMs = 30_000;
const stopped = new AbortController();
let left = values.count ? Number(values.count) : Infinity;
let pauseMs = 500;

for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => stopped.abort());

function onOutcome(channel, message) {
  if (stopped.signal.aborted) return;
  try {
    const outcome = read(message.content);
    if (seen.isNew(message.properties.messageId)) {
      console.log(JSON.stringify(outcome));
      left -= 1;
    }
    // Acknowledged only once it has been dealt with: before that, it comes again.
    channel.ack(message);
    if (left <= 0) stopped.abort();
  } catch (error) {
    // Unacknowledged, and so back in its queue: somebody has to look at it.
    refuse(error);
    stopped.abort();
  }
}

// Consumes until it is stopped, or until the connection, the channel or the queue is gone, and tells what is.
async function session() {
  const connection = await amqp.connect(url, { timeout: 30_000 });
  let channel;
  try {
    return await new Promise((resolve, reject) => {
      stopped.signal.addEventListener("abort", () => resolve("stopped"), { once: true });
      watch(connection, "the connection is gone", resolve);
      const begin = async () => {
        channel = await connection.createChannel();
        watch(channel, "the channel is gone", resolve);
        await consume(channel, resolve);
      };
      begin().catch(reject);
    });
  } finally {
    // The channel first: the end of a connection does not wait behind the acks that a channel has yet to send.
    await leave(channel);
    await leave(connection);
  }
}

async function leave(it) {
  try {
    await it?.close();
  } catch {
    // It is gone.
  }
}

function watch(emitter, ended, gone) {
  emitter.on("error", (error) => gone(error.message));
  emitter.on("close", () => gone(ended));
}

async function consume(channel, gone) {
  await channel.prefetch(100);
  await channel.consume(queue, (message) => {
    if (message) onOutcome(channel, message);
    else gone(`the broker ended the consumer: was queue ${queue} deleted?`);
  });
  pauseMs = 500;
}

while (!stopped.signal.aborted) {
  const trouble = await session().catch((error) => error.message);
  if (stopped.signal.aborted) break;
  // By chance, so that a fleet of consumers does not come back as one.
  const pause = pauseMs * (0.5 + Math.random() / 2);
  pauseMs = Math.min(pauseMs * 2, longestPauseMs);
  console.error(`${trouble}; again in ${(pause / 1000).toFixed(1)} s`);
  await sleep(pause, undefined, { signal: stopped.signal }).catch(() => {});
}
