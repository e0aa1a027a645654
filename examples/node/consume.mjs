// Print outcomes as they come, one JSON object a line, over any trouble with the broker.
//
//   npm ci
//   node consume.mjs                                              solved jobs: captcha.results
//   node consume.mjs captcha.dead.invalid                         one dead-letter queue; its
//                                                  messages hold the whole job for replay
//   node consume.mjs --schema ../../docs/schema/outcome.schema.json
//   node consume.mjs --count 10                                   end after ten
//
// AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the
// namespace (captcha). SIGINT (Ctrl-C) or SIGTERM ends it.

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs, promisify } from "node:util";
import amqp from "amqplib";
import { leave, reader, refuse, results, Seen, url } from "./contract.mjs";

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
let fault;
let last = Promise.resolve();

// console.log says nothing of a line that it could not write, and that line would be acked all the
// same.
const write = promisify(process.stdout.write.bind(process.stdout));
process.stdout.on("error", () => {});

for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => stopped.abort());

// One after the other: a repeat can come while the first is being dealt with. The prefetch bounds
// how many wait.
function onOutcome(channel, message, gone) {
  last = last.then(async () => {
    if (stopped.signal.aborted) return;
    try {
      await dealWith(message);
    } catch (error) {
      // Unacknowledged, and so back in its queue: somebody has to look at it.
      fault = error;
      return stopped.abort();
    }
    try {
      // Acknowledged only once it has been dealt with: before that, it comes again.
      channel.ack(message);
    } catch (error) {
      gone(error.message);
    }
    if (left <= 0) stopped.abort();
  });
}

async function dealWith({ content, properties }) {
  const outcome = read(content);
  if (!seen.has(properties)) {
    await write(`${JSON.stringify(outcome)}\n`);
    seen.add(properties);
    left -= 1;
  }
}

// Consumes until it is stopped, or until the connection, the channel or the queue is gone, and
// tells what is.
async function session() {
  const connection = await amqp.connect(url, { timeout: 30_000 });
  let channel, stop;
  try {
    return await new Promise((resolve, reject) => {
      stop = () => resolve("stopped");
      stopped.signal.addEventListener("abort", stop);
      if (stopped.signal.aborted) return stop();
      watch(connection, "the connection is gone", resolve);
      const begin = async () => {
        channel = await connection.createChannel();
        watch(channel, "the channel is gone", resolve);
        await consume(channel, resolve);
      };
      begin().catch(reject);
    });
  } finally {
    stopped.signal.removeEventListener("abort", stop);
    // The channel first: the end of a connection does not wait behind the acks that a channel has
    // yet to send.
    await leave(channel);
    await leave(connection);
  }
}

function watch(emitter, ended, gone) {
  emitter.on("error", (error) => gone(error.message));
  emitter.on("close", () => gone(ended));
}

async function consume(channel, gone) {
  await channel.prefetch(100);
  await channel.consume(queue, (message) => {
    if (message) onOutcome(channel, message, gone);
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
if (fault) refuse(fault);
