#!/usr/bin/env python3
"""Publish one image as a job with pika, and wait until the broker has it.

    python publish.py captcha.png     prints the job's id; without a file, the image is noise
    python consume.py                 its outcome: see there

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the lane (captcha).
"""

import json
import pathlib
import sys

import pika
from pika.exceptions import NackError, UnroutableError

from contract import JOBS, URL, arguments, job_of, reader, run


def main() -> int:
    parser = arguments("Publish one image as a job.")
    parser.add_argument("image", type=pathlib.Path, nargs="?")
    options = parser.parse_args()
    job = job_of(options.image)
    body = json.dumps(job).encode()
    # Here it is the schema of a job: what is refused by it would only come back as a dead letter.
    reader(options.schema)(body)
    parameters = pika.URLParameters(URL)
    # A broker that is short of memory or disk makes publishers wait: not for ever.
    parameters.blocked_connection_timeout = 60
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=job["id"])
        try:
            channel.basic_publish(JOBS, JOBS, body, properties, mandatory=True)
        except UnroutableError:
            sys.exit(f"no queue takes jobs from exchange {JOBS}: is the topology declared?")
        except NackError:
            sys.exit("the broker refuses the job: it is still yours")
    print(job["id"])
    return 0


if __name__ == "__main__":
    run(main)
