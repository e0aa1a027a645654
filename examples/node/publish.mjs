// Publish one image as a job, and wait until the broker has it.
//
//   npm install
//   node publish.mjs captcha.png            the outcome goes to the results queue: see consume.mjs
//   node publish.mjs captcha.png --wait     a copy of it also comes back here
//
// AMQP_URL names the broker (default: amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the lane (captcha).

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import amqp from "amqplib";

const url = process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
const jobs = `${process.env.CAPTCHA_NAMESPACE ?? "captcha"}.jobs`;
const directReply = "amq.rabbitmq.reply-to";
const patienceMs = 120_000;

const [file, flag] = process.argv.slice(2);
const wait = flag === "--wait";

const job = {
  // Repeats of an outcome are dropped by this id: make it unique, and keep it if you publish the same job again.
  id: `${basename(file).slice(0, 100)}-${randomUUID()}`,
  task: { type: "ImageToTextTask", body: (await readFile(file)).toString("base64") },
  // Past the deadline nothing more is spent on the job.
  deadline: new Date(Date.now() + patienceMs).toISOString(),
  metadata: { file: basename(file) },
};

const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();

// A job that no queue takes is returned, and then confirmed: the return comes first.
let returned = false;
channel.on("return", () => {
  returned = true;
});

let resolve;
const outcome = new Promise((done) => {
  resolve = done;
});
if (wait) {
  // Direct reply-to wants its consumer first, on the channel that publishes. The copy is not durable: should this
  // program stop, the outcome is still in the results queue or in a dead-letter queue.
  await channel.consume(directReply, (message) => resolve(JSON.parse(message.content)), { noAck: true });
}

channel.publish(jobs, jobs, Buffer.from(JSON.stringify(job)), {
  contentType: "application/json",
  persistent: true,
  mandatory: true,
  messageId: job.id,
  correlationId: job.id,
  replyTo: wait ? directReply : undefined,
});
// Rejects where the broker refuses the job.
await channel.waitForConfirms();
if (returned) throw new Error(`no queue takes jobs from exchange ${jobs}: is the topology declared?`);
console.error(`published ${job.id}`);

if (wait) {
  const timer = setTimeout(() => resolve(undefined), patienceMs + 30_000);
  const done = await outcome;
  clearTimeout(timer);
  if (done) console.log(JSON.stringify(done.solution ?? done.failure));
  else console.error("no outcome in time");
  process.exitCode = done?.status === "solved" ? 0 : 1;
}
await connection.close();
