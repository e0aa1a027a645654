#!/usr/bin/env python3
"""Publish one image as a job with aio-pika, and wait until the broker has it.

    python aio_publish.py captcha.png     prints the job's id; without a file, the image is noise
    python aio_publish.py --id ID …       once more, where it is not known whether the broker has it

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the namespace (captcha).
"""

import asyncio
import json
import pathlib
import sys
import time

import aio_pika
from aio_pika.exceptions import DeliveryError

from contract import CONFIRM, JOBS, URL, NotKnown, arguments, job_of, reader, run


async def publish(job: dict) -> None:
    async with await aio_pika.connect(URL, timeout=30) as connection:
        # With confirms; a job that no queue takes raises too.
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(JOBS, ensure=False)
        message = aio_pika.Message(
            json.dumps(job).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=job["id"],
            # Workers tell by it how long jobs wait in the queue.
            timestamp=int(time.time()),
        )
        try:
            # The client's own time-out does not count while the broker takes nothing in.
            await asyncio.wait_for(exchange.publish(message, JOBS, mandatory=True), CONFIRM)
        except DeliveryError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            raise NotKnown(job, repr(error)) from error


def main() -> int:
    parser = arguments("Publish one image as a job.")
    parser.add_argument("image", type=pathlib.Path, nargs="?")
    parser.add_argument("--id", help="the job's; one is made where none is given")
    options = parser.parse_args()
    job = job_of(options.image, options.id)
    # Here it is the schema of a job: what is refused by it would only come back as a dead letter.
    reader(options.schema)(json.dumps(job).encode())
    try:
        asyncio.run(publish(job))
    except DeliveryError as error:
        sys.exit(f"job {job['id']} is not published, and still yours: {error!r}; is the topology declared?")
    print(job["id"])
    return 0


if __name__ == "__main__":
    run(main)
