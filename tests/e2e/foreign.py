"""A foreign publisher and consumer: plain pika, sharing nothing with the worker.

foreign.py publish URL NAMESPACE           jobs, one JSON object a line, from standard input; confirmed
foreign.py collect URL NAMESPACE N SECONDS  consumes results and every dead-letter queue until N outcomes came or the time
                                           is over; prints {"queue": …, "id": …, "outcome": …} a line
foreign.py depth URL QUEUE                  ready messages of a queue
"""

import json
import sys
import time

import pika

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


def collect(url, namespace, wanted, seconds):
    connection, channel = connect(url)
    channel.basic_qos(prefetch_count=500)
    state = {"left": wanted}

    def take(queue):
        def on_message(channel, method, properties, body):
            try:
                outcome = json.loads(body)
            except ValueError:
                outcome = None
            print(json.dumps({
                "queue": queue, "id": properties.message_id, "correlation_id": properties.correlation_id,
                "bytes": len(body), "outcome": outcome,
            }), flush=False)
            channel.basic_ack(method.delivery_tag)
            state["left"] -= 1
        return on_message

    for name in ["results"] + [f"dead.{name}" for name in CLASSES]:
        channel.basic_consume(f"{namespace}.{name}", take(name))
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
    elif verb == "depth":
        depth(*rest)
    else:
        sys.exit(f"unknown verb {verb}")
