// The loop of a worker as one writes it in Node: amqplib, undici, one promise per job. What it must
// do is in ../README.md.
import { createHistogram } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import amqp from "amqplib";
import { Pool } from "undici";

const { PEER_AMQP, PEER_API, PEER_KEY, PEER_PREFIX } = process.env;
const [inFlight, connections, firstPollMs, pollMs] = ["IN_FLIGHT", "CONNECTIONS", "FIRST_POLL_MS", "POLL_MS"].map((name) => Number(process.env[`PEER_${name}`]));

const api = new Pool(PEER_API, { connections });
const lateness = createHistogram(); // in µs; its least value is 1
let stopping = false;

async function call(method, fields) {
  const { statusCode, body } = await api.request({
    path: `/${method}`,
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ clientKey: PEER_KEY, ...fields }),
  });
  const answer = await body.json();
  if (statusCode !== 200 || answer.errorId !== 0) throw new Error(`${method}: ${statusCode} ${JSON.stringify(answer)}`);
  return answer;
}

// Timers may fire up to a millisecond early, and a poll that comes early is an offence.
async function until(due) {
  for (let left; (left = due - performance.now()) > 0; ) await sleep(Math.ceil(left));
  lateness.record(Math.max(1, Math.round((performance.now() - due) * 1000)));
}

async function solve(task) {
  const { taskId } = await call("createTask", { task });
  for (let wait = firstPollMs; ; wait = pollMs) {
    await until(performance.now() + wait);
    const answer = await call("getTaskResult", { taskId });
    if (answer.status === "ready") return { task_id: taskId, solution: answer.solution };
  }
}

async function work(channel, delivery) {
  const { id, task } = JSON.parse(delivery.content);
  const result = Buffer.from(JSON.stringify({ id, status: "solved", ...(await solve(task)) }));
  await new Promise((resolve, reject) => {
    const confirmed = (error) => (error ? reject(error) : resolve());
    channel.publish("", `${PEER_PREFIX}.results`, result, { persistent: true, mandatory: true, messageId: id }, confirmed);
  });
  channel.ack(delivery);
}

// Jobs that are still open fail while the connection closes, and go back to their queue. Any other
// failure ends the process.
function fail(error) {
  if (stopping) return;
  console.error(error);
  process.exit(1);
}

const connection = await amqp.connect(PEER_AMQP);
connection.on("error", fail);
connection.on("close", () => fail(new Error("the broker closed the connection")));
const channel = await connection.createConfirmChannel();
channel.on("error", fail);
channel.on("return", () => fail(new Error("no queue takes the results")));

process.on("SIGTERM", async () => {
  stopping = true;
  const [p50, p99, max] = [lateness.percentile(50), lateness.percentile(99), lateness.max].map((us) => (lateness.count ? us / 1000 : 0));
  console.log(JSON.stringify({ polls: lateness.count, late_ms: { p50, p99, max } }));
  setTimeout(() => process.exit(0), 3000); // for a broker that does not answer
  await connection.close(); // acks are written before it
  process.exit(0);
});

await channel.prefetch(inFlight);
await channel.consume(`${PEER_PREFIX}.jobs`, (delivery) => {
  if (delivery) work(channel, delivery).catch(fail);
  else fail(new Error("the broker ended the consumer"));
});
