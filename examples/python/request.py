#!/usr/bin/env python3
"""Publish one image as a job with pika, and wait for its outcome here, by direct reply-to.

    python request.py captcha.png     prints the solution (exit code 0) or the failure (1); 2 where no reply came in time,
                                      3 where --schema refuses it

The reply is a copy, transient and sent once: the durable outcome is the one to rely on, and comes all the same. Whoever must not miss an answer
consumes it (consume.py); this is for whoever waits right now and can ask again.

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the namespace (captcha).
"""

import json
import pathlib
import sys
import threading
import time

import pika
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosed, NackError, UnroutableError

from contract import CONFIRM, DIRECT_REPLY, GRACE, JOBS, PATIENCE, URL, NotKnown, arguments, aside, job_of, no_answer, reader, run, tell


def ask(job: dict, confirmed: threading.Event) -> bytes | None:
    """The outcome; None where its copy did not come."""
    parameters = pika.URLParameters(URL)
    parameters.blocked_connection_timeout = CONFIRM
    replies: list[bytes] = []

    def on_reply(channel, method, properties, body: bytes) -> None:
        # Replies to earlier requests of this channel come here too.
        if properties.correlation_id == job["id"]:
            replies.append(body)

    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        # Direct reply-to wants its consumer first, on the channel that publishes.
        channel.basic_consume(DIRECT_REPLY, on_reply, auto_ack=True)
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=job["id"], correlation_id=job["id"],
            reply_to=DIRECT_REPLY, timestamp=int(time.time()),
        )
        try:
            channel.basic_publish(JOBS, JOBS, json.dumps(job).encode(), properties, mandatory=True)
        except UnroutableError:
            sys.exit(f"no queue takes jobs from exchange {JOBS}: is the topology declared?")
        except NackError:
            sys.exit(f"the broker refuses job {job['id']}: it is still yours")
        except AMQPError as error:
            raise NotKnown(job, repr(error)) from error
        confirmed.set()
        give_up = time.monotonic() + (PATIENCE + GRACE).total_seconds()
        try:
            while not replies and time.monotonic() < give_up:
                connection.process_data_events(time_limit=1)
        except (AMQPConnectionError, ChannelClosed):
            # The address of a direct reply ends with its channel.
            return None
    return replies[0] if replies else None


def main() -> int:
    parser = arguments("Publish one image as a job, and wait for its outcome.")
    parser.add_argument("image", type=pathlib.Path, nargs="?")
    options = parser.parse_args()
    job, read, confirmed = job_of(options.image), reader(options.schema), threading.Event()
    reply = aside(lambda: ask(job, confirmed))
    reply.add_done_callback(lambda _: confirmed.set())
    # pika waits for a confirm without end.
    if not confirmed.wait(CONFIRM):
        raise NotKnown(job, "no confirm in time")
    body = reply.result()
    return tell(read(body)) if body else no_answer(job)


if __name__ == "__main__":
    run(main)
