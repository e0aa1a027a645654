#!/usr/bin/env python3
"""Print outcomes as they come with pika, one JSON object a line, over any trouble with the broker.

    python consume.py                                              solved jobs: captcha.results
    python consume.py captcha.dead.invalid                         one dead-letter queue; its messages hold the whole job for replay
    python consume.py --schema ../../docs/schema/outcome.schema.json
    python consume.py --count 10                                   end after ten

AMQP_URL names the broker (amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the namespace (captcha). SIGINT (Ctrl-C) or SIGTERM ends it.
"""

import json
import random
import signal
import sys
import threading

import pika
from pika.exceptions import AMQPConnectionError, ChannelClosed

from contract import RESULTS, URL, Seen, arguments, reader, run

LONGEST_PAUSE = 30.0


class Consumer:
    def __init__(self, queue: str, count: int | None, read) -> None:
        self.queue, self.left, self.read = queue, count, read
        self.seen, self.stopped, self.pause = Seen(), threading.Event(), 0.5
        self.connection = self.channel = None

    def stop(self, *_) -> None:
        self.stopped.set()
        if self.connection and self.connection.is_open:
            self.connection.add_callback_threadsafe(self.leave)

    def leave(self) -> None:
        # Asked for here, and not where a signal came in: then there may have been no channel yet,
        # or the last session's.
        if self.channel and self.channel.is_open:
            self.channel.stop_consuming()

    def on_outcome(self, channel, method, properties, body: bytes) -> None:
        if self.stopped.is_set():
            return
        # Where this raises, the outcome is not acknowledged, and so back in its queue: somebody has
        # to look at it.
        outcome = self.read(body)
        if not self.seen.has(properties.message_id, properties.headers):
            print(json.dumps(outcome), flush=True)
            self.seen.add(properties.message_id, properties.headers)
            self.left = self.left and self.left - 1
        # Acknowledged only once it has been dealt with: before that, it comes again.
        channel.basic_ack(method.delivery_tag)
        if self.left == 0:
            self.stop()

    def session(self) -> None:
        self.channel = None
        self.connection = pika.BlockingConnection(pika.URLParameters(URL))
        with self.connection:
            self.channel = self.connection.channel()
            self.channel.basic_qos(prefetch_count=100)
            self.channel.basic_consume(self.queue, self.on_outcome)
            self.pause = 0.5
            if not self.stopped.is_set():
                # Ends where it is stopped, and where the broker ends the consumer because its queue
                # is gone.
                self.channel.start_consuming()

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self.session()
                trouble = "the broker ended the consumer"
            except (AMQPConnectionError, ChannelClosed) as error:
                trouble = repr(error)
            if not self.stopped.is_set():
                # By chance, so that a fleet of consumers does not come back as one.
                pause = self.pause * random.uniform(0.5, 1.0)
                self.pause = min(self.pause * 2, LONGEST_PAUSE)
                print(f"{trouble}; again in {pause:.1f} s", file=sys.stderr)
                self.stopped.wait(pause)


def main() -> int:
    parser = arguments("Print outcomes as they come.")
    parser.add_argument("queue", nargs="?", default=RESULTS)
    parser.add_argument("--count", type=int, metavar="N", help="end after so many")
    options = parser.parse_args()
    consumer = Consumer(options.queue, options.count, reader(options.schema))
    signal.signal(signal.SIGINT, consumer.stop)
    signal.signal(signal.SIGTERM, consumer.stop)
    consumer.run()
    return 0


if __name__ == "__main__":
    run(main)
