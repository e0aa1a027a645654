#!/usr/bin/env python3
"""Publish one image as a job, and wait until the broker has it.

    pip install pika
    python publish.py captcha.png             # the outcome goes to the results queue: see consume.py
    python publish.py captcha.png --wait      # a copy of it also comes back here

AMQP_URL names the broker (default: amqp://guest:guest@127.0.0.1:5672/%2f), CAPTCHA_NAMESPACE the lane (captcha).
"""

import base64
import json
import os
import pathlib
import sys
import time
import uuid
from datetime import datetime, timedelta, timezone

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
JOBS = os.environ.get("CAPTCHA_NAMESPACE", "captcha") + ".jobs"
DIRECT_REPLY = "amq.rabbitmq.reply-to"
PATIENCE = timedelta(seconds=120)


def job_for(image: pathlib.Path) -> dict:
    return {
        # Repeats of an outcome are dropped by this id: make it unique, and keep it if you publish the same job again.
        "id": f"{image.stem[:100]}-{uuid.uuid4()}",
        "task": {"type": "ImageToTextTask", "body": base64.b64encode(image.read_bytes()).decode()},
        # Past the deadline nothing more is spent on the job.
        "deadline": (datetime.now(timezone.utc) + PATIENCE).isoformat(timespec="milliseconds"),
        "metadata": {"file": image.name},
    }


def publish(channel, job: dict, reply_to: str | None) -> None:
    # Raises where the broker refuses the job, or no queue takes it.
    channel.basic_publish(
        exchange=JOBS,
        routing_key=JOBS,
        body=json.dumps(job).encode(),
        mandatory=True,
        properties=pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=job["id"],
            correlation_id=job["id"],
            reply_to=reply_to,
        ),
    )


def main() -> int:
    job, wait = job_for(pathlib.Path(sys.argv[1])), "--wait" in sys.argv[2:]
    with pika.BlockingConnection(pika.URLParameters(URL)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        outcomes: list[bytes] = []
        if wait:
            # Direct reply-to wants its consumer first, on the channel that publishes. The copy is not durable: should this
            # program stop, the outcome is still in the results queue or in a dead-letter queue.
            channel.basic_consume(DIRECT_REPLY, lambda *delivery: outcomes.append(delivery[3]), auto_ack=True)
        publish(channel, job, DIRECT_REPLY if wait else None)
        print(f"published {job['id']}", file=sys.stderr)
        give_up = time.monotonic() + PATIENCE.total_seconds() + 30
        while wait and not outcomes and time.monotonic() < give_up:
            connection.process_data_events(time_limit=1)
    if not wait:
        return 0
    if not outcomes:
        print("no outcome in time", file=sys.stderr)
        return 1
    outcome = json.loads(outcomes[0])
    print(json.dumps(outcome.get("solution") or outcome["failure"]))
    return 0 if outcome["status"] == "solved" else 1


if __name__ == "__main__":
    sys.exit(main())
