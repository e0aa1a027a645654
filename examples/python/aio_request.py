#!/usr/bin/env python3
"""Publish images as jobs with aio-pika, all at once, and wait for their outcomes here, by direct reply-to.

    python aio_request.py a.png b.png     prints a solution or failure a line, in their order
                                          exit code 0 where all are solved, 1 where one failed, 2 where a reply did not come in time,
                                          3 where --schema refuses one, 4 where a job was not confirmed: the highest of these

The reply is a copy, transient and sent once: the durable outcome is the one to rely on, and comes all the same. Whoever must not miss an answer
consumes it (aio_consume.py); this is for whoever waits right now and can ask again.

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the namespace (captcha).
"""

import asyncio
import json
import pathlib
import sys
import time

import aio_pika
from aio_pika.exceptions import DeliveryError

from contract import CONFIRM, DIRECT_REPLY, GRACE, JOBS, PATIENCE, URL, NotKnown, OutOfContract, arguments, job_of, no_answer, reader, run, tell


class Requests:
    """Requests that wait for their replies on one channel, distinguished by correlation_id."""

    def __init__(self, channel) -> None:
        self.channel, self.waiting = channel, {}

    async def listen(self) -> None:
        # Direct reply-to wants its consumer first, on the channel that publishes.
        queue = await self.channel.get_queue(DIRECT_REPLY, ensure=False)
        await queue.consume(self.on_reply, no_ack=True)
        self.jobs = await self.channel.get_exchange(JOBS, ensure=False)
        # The address of a direct reply ends with its channel: nobody is left to wait in vain.
        self.channel.close_callbacks.add(lambda *_: [it.cancel() for it in self.waiting.values()])

    async def on_reply(self, message) -> None:
        reply = self.waiting.pop(message.correlation_id, None)
        if reply and not reply.done():
            reply.set_result(message.body)

    async def ask(self, job: dict) -> bytes | None:
        """The outcome; None where its copy did not come."""
        reply = self.waiting[job["id"]] = asyncio.get_running_loop().create_future()
        try:
            await self.publish(job)
            return await asyncio.wait_for(reply, (PATIENCE + GRACE).total_seconds())
        except (TimeoutError, asyncio.CancelledError):
            return None
        finally:
            self.waiting.pop(job["id"], None)

    async def publish(self, job: dict) -> None:
        message = aio_pika.Message(
            json.dumps(job).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=job["id"],
            correlation_id=job["id"],
            reply_to=DIRECT_REPLY,
            # Workers tell by it how long jobs wait in the queue.
            timestamp=int(time.time()),
        )
        try:
            # The client's own time-out does not count while the broker takes nothing in.
            await asyncio.wait_for(self.jobs.publish(message, JOBS, mandatory=True), CONFIRM)
        except DeliveryError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            raise NotKnown(job, repr(error)) from error


async def ask_all(jobs: list[dict]) -> list[bytes | None | BaseException]:
    async with await aio_pika.connect(URL, timeout=30) as connection:
        requests = Requests(await connection.channel(publisher_confirms=True, on_return_raises=True))
        await requests.listen()
        # What became of one job takes no answer from the others: they are paid for.
        return await asyncio.gather(*map(requests.ask, jobs), return_exceptions=True)


def told(job: dict, answer: bytes | None | BaseException, read) -> int:
    try:
        if isinstance(answer, BaseException):
            raise answer
        return tell(read(answer)) if answer else no_answer(job)
    except OutOfContract as fault:
        print(f"refused by the schema: {fault}", file=sys.stderr)
        return 3
    except DeliveryError as error:
        print(f"job {job['id']} is not published, and still yours: {error!r}", file=sys.stderr)
        return 4
    except NotKnown as error:
        print(error, file=sys.stderr)
        return 4


def main() -> int:
    parser = arguments("Publish images as jobs, and wait for their outcomes.")
    parser.add_argument("images", type=pathlib.Path, nargs="*")
    options = parser.parse_args()
    jobs, read = [job_of(image) for image in options.images or [None]], reader(options.schema)
    return max(told(job, answer, read) for job, answer in zip(jobs, asyncio.run(ask_all(jobs))))


if __name__ == "__main__":
    run(main)
