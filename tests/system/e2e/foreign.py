"""A foreign publisher and consumer: plain pika, sharing nothing with the worker.

foreign.py publish URL NAMESPACE           jobs, one JSON object a line, from standard input; confirmed
foreign.py collect URL NAMESPACE N SECONDS  consumes results and every dead-letter queue until N outcomes came or the time
                                           is over; prints {"queue": …, "id": …, "outcome": …} a line
foreign.py depth URL QUEUE                  ready messages of a queue
foreign.py offer URL NAMESPACE              jobs as `publish` has them, over any trouble with the broker; says of each "confirmed ID",
                                           "refused ID", or "unknown ID" where the connection ended before the confirm came
foreign.py follow URL NAMESPACE             as `collect`, over any trouble with the broker, unrouted outcomes too, until standard
                                           input ends; a line "hold" there leaves the results queue alone, "take" consumes it again
foreign.py call URL METHOD JSON             one call of a channel's method, such as exchange_delete '{"exchange": "x"}'
foreign.py keep URL QUEUE SECONDS           takes a message and does not ack it; says "closed" if the broker ends that, else "kept"
"""

import hashlib
import json
import os
import select
import sys
import time

import pika
from pika.exceptions import AMQPError, NackError, UnroutableError

# Between two tries to reach a broker that is away.
RETRY_SECONDS = 0.2

CLASSES = [
    "capacity", "transient", "lost", "unsolved", "invalid", "forbidden", "expired",
    "proxy", "account", "malformed", "poison", "unknown", "raw",
]


def connect(url):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    return connection, connection.channel()


def publish(url, namespace):
    connection, channel = connect(url)
    channel.confirm_delivery()
    count = 0
    for line in sys.stdin:
        channel.basic_publish(
            f"{namespace}.jobs",
            "",
            line.strip().encode(),
            pika.BasicProperties(delivery_mode=2, content_type="application/json", correlation_id=f"c-{count}"),
            mandatory=True,
        )
        count += 1
    connection.close()
    print(count)


def teller(queue, then):
    """Prints an outcome, acks it, and does what is to be done then."""
    def on_message(channel, method, properties, body):
        try:
            outcome = json.loads(body)
        except ValueError:
            outcome = None
        print(json.dumps({
            "queue": queue, "id": properties.message_id, "correlation_id": properties.correlation_id,
            "bytes": len(body), "digest": hashlib.sha256(body).hexdigest()[:16], "redelivered": method.redelivered,
            "outcome": outcome,
        }))
        channel.basic_ack(method.delivery_tag)
        then()
    return on_message


def collect(url, namespace, wanted, seconds):
    connection, channel = connect(url)
    channel.basic_qos(prefetch_count=500)
    state = {"left": wanted}

    def count():
        state["left"] -= 1

    for name in ["results"] + [f"dead.{name}" for name in CLASSES]:
        channel.basic_consume(f"{namespace}.{name}", teller(name, count))
    deadline = time.monotonic() + seconds
    # Two more seconds after the last one wanted: a repeated outcome must be seen, not overlooked.
    grace = None
    while time.monotonic() < deadline:
        connection.process_data_events(time_limit=0.2)
        if state["left"] <= 0:
            grace = grace or time.monotonic() + 2
            if time.monotonic() > grace:
                break
    connection.close()


def patient(url):
    """A connection, however long it takes. Without heartbeats: whoever offers jobs may be asked to wait, and then serves no timer."""
    while True:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(url + "?heartbeat=0&socket_timeout=3&stack_timeout=5"))
            return connection, connection.channel()
        except (AMQPError, OSError):
            time.sleep(RETRY_SECONDS)


def offer(url, namespace):
    channel = None
    for line in sys.stdin:
        name = json.loads(line)["id"]
        if channel is None:
            _, channel = patient(url)
            channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2, message_id=name)
        try:
            channel.basic_publish(f"{namespace}.jobs", "jobs", line.strip().encode(), properties, mandatory=True)
            said = "confirmed"
        except (NackError, UnroutableError):
            said = "refused"
        except (AMQPError, OSError):
            said, channel = "unknown", None
        print(said, name, flush=True)


class Orders:
    """What standard input says, looked at without waiting."""

    def __init__(self):
        self.ended = self.holding = False

    def look(self):
        """Whether something has changed."""
        before = (self.ended, self.holding)
        while not self.ended and select.select([sys.stdin], [], [], 0)[0]:
            said = os.read(sys.stdin.fileno(), 4096).decode()
            self.ended = not said
            for word in said.split():
                self.holding = word == "hold"
        return before != (self.ended, self.holding)


def follow(url, namespace):
    orders = Orders()
    while not orders.ended:
        connection, channel = patient(url)
        try:
            channel.basic_qos(prefetch_count=500)
            names = [f"dead.{name}" for name in CLASSES] + ["unrouted"] + ([] if orders.holding else ["results"])
            for name in names:
                channel.basic_consume(f"{namespace}.{name}", teller(name, sys.stdout.flush))
            # A consumer whose queue was deleted is gone without an error.
            while len(channel.consumer_tags) == len(names) and not orders.look():
                connection.process_data_events(time_limit=0.1)
            connection.close()
        except (AMQPError, OSError):
            orders.look()
            time.sleep(RETRY_SECONDS)


def call(url, method, arguments):
    connection, channel = connect(url)
    getattr(channel, method)(**json.loads(arguments))
    connection.close()


def keep(url, queue, seconds):
    connection, channel = connect(url)
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2))
    channel.basic_consume(queue, lambda *_: None)
    deadline = time.monotonic() + seconds
    try:
        while channel.is_open and time.monotonic() < deadline:
            connection.process_data_events(time_limit=0.5)
    except AMQPError:
        pass
    print("kept" if channel.is_open else "closed")


def depth(url, queue):
    connection, channel = connect(url)
    print(channel.queue_declare(queue, passive=True).method.message_count)
    connection.close()


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "publish":
        publish(*rest)
    elif verb == "collect":
        collect(rest[0], rest[1], int(rest[2]), float(rest[3]))
    elif verb == "keep":
        keep(rest[0], rest[1], float(rest[2]))
    elif verb in ("depth", "offer", "follow", "call"):
        {"depth": depth, "offer": offer, "follow": follow, "call": call}[verb](*rest)
    else:
        sys.exit(f"unknown verb {verb}")
