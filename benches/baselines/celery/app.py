"""The worker as one writes it with Celery: one task submits, another polls and retries itself. What it must do is in ../README.md."""

import os
import signal
import struct
from functools import cache
from time import time

import urllib3
from celery import Celery
from celery.signals import task_failure
from kombu import Queue

API = os.environ["PEER_API"]
KEY = os.environ["PEER_KEY"]
PREFIX = os.environ["PEER_PREFIX"]
FIRST_POLL = int(os.environ["PEER_FIRST_POLL_MS"]) / 1000
POLL = int(os.environ["PEER_POLL_MS"]) / 1000
PROCESSES = 2

JOBS, POLLS = f"{PREFIX}.celery", f"{PREFIX}.celery.polls"

app = Celery("peer", broker=os.environ["PEER_AMQP"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # Each publish waits for its confirm, so that a task is acked only after its successor is safe.
    broker_transport_options={"confirm_publish": True},
    # Polls have a queue of their own, else each of them would stand behind all jobs that wait.
    task_queues=[Queue(JOBS), Queue(POLLS)],
    task_default_queue=JOBS,
    task_routes={"peer.poll": {"queue": POLLS}},
    worker_concurrency=PROCESSES,
    # As many as the others hold. A task with a countdown stays unacked with the worker until it is
    # due; Celery raises the prefetch by one for each, so that they keep no job from coming in. The
    # default of 4 costs the same CPU; bursts take longer with it, but their polls are less late,
    # since a poll that is due stands behind the jobs already fetched.
    worker_prefetch_multiplier=max(1, int(os.environ["PEER_IN_FLIGHT"]) // PROCESSES),
    worker_enable_remote_control=False,
)


@cache
def http():
    # Made at a process's first call, that is after the fork: sockets must not be shared.
    return urllib3.PoolManager()


@cache
def lateness():
    # Appended unbuffered by each process, so that no figure hangs on how a process ends.
    return open(os.environ["PEER_LATENESS"], "ab", buffering=0)


def call(method, **fields):
    answer = http().request("POST", f"{API}/{method}", json={"clientKey": KEY, **fields}, retries=False)
    if answer.status != 200 or answer.json()["errorId"] != 0:
        raise RuntimeError(f"{method}: {answer.status} {answer.data!r}")
    return answer.json()


@app.task(name="peer.submit")
def submit(job_id, task):
    task_id = call("createTask", task=task)["taskId"]
    poll.apply_async((job_id, task_id, time() + FIRST_POLL), countdown=FIRST_POLL)


@app.task(name="peer.poll", bind=True, max_retries=None)
def poll(self, job_id, task_id, due):
    lateness().write(struct.pack("d", time() - due))
    answer = call("getTaskResult", taskId=task_id)
    if answer["status"] != "ready":
        raise self.retry((job_id, task_id, time() + POLL), countdown=POLL)
    result = {"id": job_id, "status": "solved", "task_id": task_id, "solution": answer["solution"]}
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(result, serializer="json", routing_key=f"{PREFIX}.results", message_id=job_id, delivery_mode="persistent")


@task_failure.connect
def end_loudly(**_):
    # Celery logs the failure and would go on; a benchmark must not. The parent is the worker, which
    # stops cold on this signal.
    os.kill(os.getppid(), signal.SIGQUIT)
