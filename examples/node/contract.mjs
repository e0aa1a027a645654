// What the examples share: a job, the check of a message against a published schema, and the memory
// of what has been seen.

import { randomBytes, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export const url = process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
const namespace = process.env.CAPTCHA_NAMESPACE ?? "captcha";
export const jobs = `${namespace}.jobs`;
export const results = `${namespace}.results`;
export const directReply = "amq.rabbitmq.reply-to";
// How long an answer is wanted, and how much later its outcome may still arrive.
export const patienceMs = 120_000;
export const graceMs = 30_000;
// How long the broker may take to confirm a job. A queue without a majority confirms nothing, and
// its connection lives on.
const confirmMs = Number(process.env.CAPTCHA_CONFIRM_SECONDS ?? 60) * 1000;
const leaveMs = 5_000;
const remembered = 100_000;

// A message that the published schema refuses.
class OutOfContract extends Error {}

// A job of an image file; without one, of noise, which is for trying out with the simulator: the
// API would charge for it.
export async function jobOf(file, id) {
  const picture = file ? await readFile(file) : Buffer.concat([Buffer.from("P5 32 16 255\n"), randomBytes(32 * 16)]);
  const name = file ? basename(file) : "noise.pgm";
  return {
    // Repeats of an outcome are dropped by this id: make it unique, and keep it where it is not
    // known whether the broker has the job.
    id: id ?? `${name.slice(0, 100)}-${randomUUID()}`,
    task: { type: "ImageToTextTask", body: picture.toString("base64") },
    // Past the deadline nothing more is spent on the job.
    deadline: new Date(Date.now() + patienceMs).toISOString(),
    metadata: { file: name },
  };
}

// Reads a message; with a schema, only one that it allows.
export async function reader(schemaFile) {
  const faultsOf = schemaFile ? await faultsBy(schemaFile) : () => "";
  return (content) => {
    let message;
    try {
      message = JSON.parse(content.toString("utf8"));
    } catch (error) {
      throw new OutOfContract(`not JSON: ${error.message}`);
    }
    const faults = faultsOf(message);
    if (faults) throw new OutOfContract(faults);
    return message;
  };
}

async function faultsBy(schemaFile) {
  // Imported here, so that without --schema only the client is needed.
  const { default: Ajv } = await import("ajv/dist/2020.js");
  const { default: addFormats } = await import("ajv-formats");
  const ajv = addFormats(new Ajv({ allErrors: true, allowUnionTypes: true }));
  const isValid = ajv.compile(JSON.parse(await readFile(schemaFile, "utf8")));
  return (message) => (isValid(message) ? "" : ajv.errorsText(isValid.errors, { dataVar: "$" }));
}

// Ends the program with exit code 3 where a message was out of contract; any other error is none of
// its business.
export function refuse(error) {
  if (!(error instanceof OutOfContract)) throw error;
  console.error(`refused by the schema: ${error.message}`);
  process.exitCode = 3;
}

// Delivery is at least once: an outcome can come twice, with the same messageId and the same
// captcha-replay-id, or none. A job that was replayed keeps its id, and what becomes of it then is
// no repeat: that header tells them apart. Here the last ones are kept in memory; a program that
// must not act twice keeps them where it keeps the effect, in the same transaction.
export class Seen {
  #keys = new Set();

  has(properties) {
    return this.#keys.has(this.#key(properties));
  }

  // To be called once the outcome has been dealt with: where that fails, it must be new when it
  // comes again.
  add(properties) {
    // What the broker itself dead-lettered need not have an id.
    if (!properties.messageId) return;
    this.#keys.add(this.#key(properties));
    // A Set gives its oldest member first.
    if (this.#keys.size > remembered) this.#keys.delete(this.#keys.values().next().value);
  }

  #key({ messageId, headers }) {
    return JSON.stringify([messageId, headers?.["captcha-replay-id"]]);
  }
}

// Publishes a job on a channel with confirms, and waits until the broker has it.
export async function publish(channel, job, more = {}) {
  // A job that no queue takes is returned, and then confirmed: the return comes first.
  let returned = false;
  const onReturn = ({ properties }) => {
    returned ||= properties.messageId === job.id;
  };
  channel.on("return", onReturn);
  const options = {
    contentType: "application/json",
    persistent: true,
    mandatory: true,
    messageId: job.id,
    // Workers tell by it how long jobs wait in the queue.
    timestamp: Math.floor(Date.now() / 1000),
    ...more,
  };
  let timer;
  try {
    await new Promise((resolve, reject) => {
      // Under another id it would be another job, and its outcome no repeat.
      const notKnown = (why) =>
        reject(new Error(`not known whether the broker has job ${job.id} (${why}): publish it again under the same id`));
      timer = setTimeout(notKnown, confirmMs, "no confirm in time");
      // The client has an error for what the broker refuses, and for what is unconfirmed when the
      // channel or the connection ends.
      channel.publish(jobs, jobs, Buffer.from(JSON.stringify(job)), options, (error) => {
        if (!error) resolve();
        else if (error.message === "message nacked") reject(new Error(`the broker refuses job ${job.id}: it is still yours`));
        else notKnown(error.message);
      });
    });
  } finally {
    clearTimeout(timer);
    channel.off("return", onReturn);
  }
  if (returned) throw new Error(`no queue takes jobs from exchange ${jobs}: is the topology declared?`);
}

// Leaves a channel or a connection in order; a broker that takes nothing in does not answer that
// either.
export async function leave(it) {
  const left = (async () => it?.close())().catch(() => {});
  await Promise.race([left, sleep(leaveMs, undefined, { ref: false })]);
}
