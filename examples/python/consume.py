#!/usr/bin/env python3
"""Print outcomes as they come, one JSON object a line.

    pip install pika
    python consume.py                          # solved jobs: captcha.results
    python consume.py captcha.dead.invalid     # one dead-letter queue; its messages hold the whole job for replay

AMQP_URL names the broker (default: amqp://guest:guest@127.0.0.1:5672/%2f). Ctrl-C ends it.
"""

import collections
import os
import sys

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
REMEMBERED = 100_000

# Delivery is at least once: an outcome can come twice, with the same message_id. Here the last ids are kept in memory;
# a program that must not act twice keeps them where it keeps the effect, in the same transaction.
seen: collections.OrderedDict[str, None] = collections.OrderedDict()


def is_repeat(message_id: str) -> bool:
    if message_id in seen:
        return True
    seen[message_id] = None
    if len(seen) > REMEMBERED:
        seen.popitem(last=False)
    return False


def on_outcome(channel, method, properties, body: bytes) -> None:
    # What the broker itself dead-lettered need not have an id.
    if properties.message_id is None or not is_repeat(properties.message_id):
        print(body.decode("utf-8", "replace"), flush=True)
    # Acknowledged only once it has been dealt with: before that, it comes again.
    channel.basic_ack(method.delivery_tag)


def main() -> None:
    queue = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CAPTCHA_NAMESPACE", "captcha") + ".results"
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    channel.basic_consume(queue, on_outcome)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    main()
