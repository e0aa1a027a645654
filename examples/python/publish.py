#!/usr/bin/env python3
"""Publish one image as a job with pika, and wait until the broker has it.

    python publish.py captcha.png     prints the job's id; without a file, the image is noise
    python publish.py --id ID …       once more, where it is not known whether the broker has it
    python consume.py                 its outcome: see there

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the namespace (captcha).
"""

import json
import pathlib
import sys
import time

import pika
from pika.exceptions import AMQPError, NackError, UnroutableError

from contract import CONFIRM, JOBS, URL, NotKnown, arguments, aside, job_of, reader, run


def publish(job: dict) -> None:
    parameters = pika.URLParameters(URL)
    # A broker that is short of memory or disk makes publishers wait: not for ever.
    parameters.blocked_connection_timeout = CONFIRM
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        # Workers tell by the timestamp how long jobs wait in the queue.
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=job["id"], timestamp=int(time.time())
        )
        try:
            channel.basic_publish(JOBS, JOBS, json.dumps(job).encode(), properties, mandatory=True)
        except UnroutableError:
            sys.exit(f"no queue takes jobs from exchange {JOBS}: is the topology declared?")
        except NackError:
            sys.exit(f"the broker refuses job {job['id']}: it is still yours")
        except AMQPError as error:
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
        # pika waits for a confirm without end.
        aside(lambda: publish(job)).result(CONFIRM)
    except TimeoutError:
        raise NotKnown(job, "no confirm in time") from None
    print(job["id"])
    return 0


if __name__ == "__main__":
    run(main)
