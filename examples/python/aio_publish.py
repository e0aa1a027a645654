#!/usr/bin/env python3
"""Publish one image as a job with aio-pika, and wait until the broker has it.

    python aio_publish.py captcha.png     prints the job's id; without a file, the image is noise

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the lane (captcha).
"""

import asyncio
import json
import pathlib
import sys

import aio_pika
from aio_pika.exceptions import DeliveryError

from contract import JOBS, URL, arguments, job_of, reader, run


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
        )
        await exchange.publish(message, JOBS, mandatory=True, timeout=60)


def main() -> int:
    parser = arguments("Publish one image as a job.")
    parser.add_argument("image", type=pathlib.Path, nargs="?")
    options = parser.parse_args()
    job = job_of(options.image)
    # Here it is the schema of a job: what is refused by it would only come back as a dead letter.
    reader(options.schema)(json.dumps(job).encode())
    try:
        asyncio.run(publish(job))
    except DeliveryError as error:
        sys.exit(f"not published, and still yours: {error!r}; is the topology declared?")
    print(job["id"])
    return 0


if __name__ == "__main__":
    run(main)
