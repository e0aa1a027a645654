"""The loop of a worker as one writes it in Python: aio-pika, aiohttp, uvloop, one task per job. What it must do is in ../README.md."""

import asyncio
import json
import os
import signal
from array import array
from time import monotonic

import aio_pika
import aiohttp
import uvloop

API = os.environ["PEER_API"]
KEY = os.environ["PEER_KEY"]
PREFIX = os.environ["PEER_PREFIX"]
FIRST_POLL = int(os.environ["PEER_FIRST_POLL_MS"]) / 1000
POLL = int(os.environ["PEER_POLL_MS"]) / 1000

lateness = array("d")  # in seconds


async def call(http, method, **fields):
    async with http.post(f"{API}/{method}", json={"clientKey": KEY, **fields}) as response:
        answer = await response.json()
    if answer["errorId"] != 0:
        raise RuntimeError(f"{method}: {answer}")
    return answer


async def until(due):
    # The loop's clock stands still within a turn, so that a timer may fire early, and a poll that
    # comes early is an offence.
    while (left := due - monotonic()) > 0:
        await asyncio.sleep(left)
    lateness.append(monotonic() - due)


async def solve(http, task):
    task_id = (await call(http, "createTask", task=task))["taskId"]
    wait = FIRST_POLL
    while True:
        await until(monotonic() + wait)
        answer = await call(http, "getTaskResult", taskId=task_id)
        if answer["status"] == "ready":
            return {"task_id": task_id, "solution": answer["solution"]}
        wait = POLL


async def work(http, exchange, delivery):
    job = json.loads(delivery.body)
    result = {"id": job["id"], "status": "solved", **await solve(http, job["task"])}
    message = aio_pika.Message(json.dumps(result).encode(), message_id=job["id"], delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await exchange.publish(message, f"{PREFIX}.results")  # returns once it is confirmed
    await delivery.ack()


def report():
    late = sorted(lateness)
    p50, p99, most = (round(late[int(len(late) * share)] * 1000, 3) if late else 0 for share in (0.5, 0.99, 1 - 1e-12))
    print(json.dumps({"polls": len(late), "late_ms": {"p50": p50, "p99": p99, "max": most}}), flush=True)


async def main():
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, lambda: ended.done() or ended.set_result(None))

    def fail(error):
        if not ended.done():
            ended.set_exception(error)

    connector = aiohttp.TCPConnector(limit=int(os.environ["PEER_CONNECTIONS"]))
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as http:
        connection = await aio_pika.connect(os.environ["PEER_AMQP"])
        connection.close_callbacks.add(lambda _, error: fail(error or ConnectionError("the broker closed the connection")))
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(lambda _, error: fail(error or ConnectionError("the broker closed the channel")))
        await channel.set_qos(prefetch_count=int(os.environ["PEER_IN_FLIGHT"]))

        async def on_delivery(delivery):
            try:
                await work(http, channel.default_exchange, delivery)
            except Exception as error:
                fail(error)

        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: fail(ConnectionError("the broker ended the consumer")))
        jobs = await channel.get_queue(f"{PREFIX}.jobs", ensure=False)
        await jobs.consume(on_delivery)
        await ended
        report()
        # Jobs that are still open go back to their queue. A broker that does not answer is not
        # waited for.
        await asyncio.wait([asyncio.ensure_future(connection.close())], timeout=3)


uvloop.run(main())
