#!/usr/bin/env python3
"""Print outcomes as they come with aio-pika, one JSON object a line, over any trouble with the broker.

    python aio_consume.py                                              solved jobs: captcha.results
    python aio_consume.py captcha.dead.invalid                         one dead-letter queue
    python aio_consume.py --schema ../../docs/schema/outcome.schema.json
    python aio_consume.py --count 10                                   end after ten

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the namespace (captcha). SIGINT (Ctrl-C) or SIGTERM ends it.
"""

import asyncio
import contextlib
import json
import random
import signal
import sys

import aio_pika
from aio_pika.exceptions import AMQPError

from contract import RESULTS, URL, Seen, arguments, reader, run

LONGEST_PAUSE = 30.0
LOOK = 1.0
# For the broker's answer to anything else than the log-in.
ANSWER = 10.0


class Consumer:
    def __init__(self, queue: str, count: int | None, read) -> None:
        self.queue, self.left, self.read = queue, count, read
        self.seen, self.pause, self.stopped = Seen(), 0.5, asyncio.Event()
        self.fault: Exception | None = None
        # One outcome after the other: the client hands over the next one while this one is still
        # being acknowledged, and what that one brings must not end the session before.
        self.turn = asyncio.Lock()

    async def on_outcome(self, message) -> None:
        async with self.turn:
            await self.deal_with(message)

    async def deal_with(self, message) -> None:
        if self.stopped.is_set():
            return
        try:
            outcome = self.read(message.body)
            if not self.seen.has(message.message_id, message.headers):
                print(json.dumps(outcome), flush=True)
                self.seen.add(message.message_id, message.headers)
                self.left = self.left and self.left - 1
        except Exception as fault:
            # Unacknowledged, and so back in its queue: somebody has to look at it. The client would
            # only log what is raised here, and go on.
            self.fault = fault
            return self.stopped.set()
        # Acknowledged only once it has been dealt with: before that, it comes again.
        await message.ack()
        if self.left == 0:
            self.stopped.set()

    async def session(self) -> str:
        """Consumes until it is stopped, or until something is gone, and tells what is."""
        # Not connect_robust, which would go on in silence: whoever runs this wants to be told.
        connection = await aio_pika.connect(URL, timeout=30)
        try:
            gone = asyncio.Event()
            channel = await asyncio.wait_for(connection.channel(), ANSWER)
            for closing in (connection.close_callbacks, channel.close_callbacks):
                closing.add(lambda *_: gone.set())
            await channel.set_qos(prefetch_count=100, timeout=ANSWER)
            queue = await channel.get_queue(self.queue, ensure=False)
            tag = await queue.consume(self.on_outcome, timeout=ANSWER)
            self.pause = 0.5
            waits = [asyncio.ensure_future(event.wait()) for event in (gone, self.stopped)]
            # A consumer that the broker ends, since its queue is gone, is forgotten by the client
            # without a word: so this looks now and then.
            known = (await channel.get_underlay_channel()).consumers
            while tag in known and not any(wait.done() for wait in waits):
                await asyncio.wait(waits, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            return "the connection is gone" if gone.is_set() else "the broker ended the consumer"
        finally:
            # What is being dealt with is acknowledged first.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.turn.acquire(), ANSWER)
                self.turn.release()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connection.close(), ANSWER)

    async def run(self) -> None:
        while not self.stopped.is_set():
            try:
                trouble = await self.session()
            except (AMQPError, OSError, asyncio.TimeoutError) as error:
                trouble = repr(error)
            if not self.stopped.is_set():
                # By chance, so that a fleet of consumers does not come back as one.
                pause = self.pause * random.uniform(0.5, 1.0)
                self.pause = min(self.pause * 2, LONGEST_PAUSE)
                print(f"{trouble}; again in {pause:.1f} s", file=sys.stderr)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), pause)


async def consume(options) -> int:
    consumer = Consumer(options.queue, options.count, reader(options.schema))
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, consumer.stopped.set)
    await consumer.run()
    if consumer.fault:
        raise consumer.fault
    return 0


def main() -> int:
    parser = arguments("Print outcomes as they come.")
    parser.add_argument("queue", nargs="?", default=RESULTS)
    parser.add_argument("--count", type=int, metavar="N", help="end after so many")
    return asyncio.run(consume(parser.parse_args()))


if __name__ == "__main__":
    run(main)
