// Print outcomes as they come, one JSON object a line.
//
//   npm install
//   node consume.mjs                          solved jobs: captcha.results
//   node consume.mjs captcha.dead.invalid     one dead-letter queue; its messages hold the whole job for replay
//
// AMQP_URL names the broker (default: amqp://guest:guest@127.0.0.1:5672/%2f). Ctrl-C ends it.

import amqp from "amqplib";

const url = process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
const queue = process.argv[2] ?? `${process.env.CAPTCHA_NAMESPACE ?? "captcha"}.results`;
const remembered = 100_000;

// Delivery is at least once: an outcome can come twice, with the same messageId. Here the last ids are kept in memory;
// a program that must not act twice keeps them where it keeps the effect, in the same transaction.
const seen = new Set();

function isRepeat(messageId) {
  if (seen.has(messageId)) return true;
  seen.add(messageId);
  // A Set gives its oldest member first.
  if (seen.size > remembered) seen.delete(seen.values().next().value);
  return false;
}

const connection = await amqp.connect(url);
const channel = await connection.createChannel();
await channel.prefetch(100);
await channel.consume(queue, (message) => {
  if (message === null) {
    console.error(`the broker ended the consumer: was queue ${queue} deleted?`);
    process.exitCode = 1;
    connection.close();
    return;
  }
  // What the broker itself dead-lettered need not have an id.
  const { messageId } = message.properties;
  if (!messageId || !isRepeat(messageId)) console.log(message.content.toString("utf8"));
  // Acknowledged only once it has been dealt with: before that, it comes again.
  channel.ack(message);
});
process.once("SIGINT", () => connection.close());
