#!/usr/bin/env python3
"""Publish one image as a job with pika, and wait for its outcome here, by direct reply-to.

    python request.py captcha.png     prints the solution (exit code 0) or the failure (1); 2 where no reply came in time,
                                      3 where --schema refuses it

The reply is a copy, transient and sent once: the durable outcome is the one to rely on, and comes all the same. Whoever must not miss an answer
consumes it (consume.py); this is for whoever waits right now and can ask again.

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the lane (captcha).
"""

import json
import pathlib
import sys
import time

import pika
from pika.exceptions import AMQPConnectionError, ChannelClosed

from contract import DIRECT_REPLY, GRACE, JOBS, PATIENCE, URL, arguments, job_of, no_answer, reader, run, tell


def main() -> int:
    parser = arguments("Publish one image as a job, and wait for its outcome.")
    parser.add_argument("image", type=pathlib.Path, nargs="?")
    options = parser.parse_args()
    job, read = job_of(options.image), reader(options.schema)
    parameters = pika.URLParameters(URL)
    parameters.blocked_connection_timeout = 60
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
        # Raises where the broker refuses the job, or no queue takes it.
        channel.basic_publish(JOBS, JOBS, json.dumps(job).encode(), mandatory=True, properties=pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=job["id"], correlation_id=job["id"],
            reply_to=DIRECT_REPLY,
        ))
        give_up = time.monotonic() + (PATIENCE + GRACE).total_seconds()
        try:
            while not replies and time.monotonic() < give_up:
                connection.process_data_events(time_limit=1)
        except (AMQPConnectionError, ChannelClosed):
            # The address of a direct reply ends with its channel.
            return no_answer(job)
    return tell(read(replies[0])) if replies else no_answer(job)


if __name__ == "__main__":
    run(main)
