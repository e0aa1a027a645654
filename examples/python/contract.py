"""What the examples share: a job, the check of a message against a published schema, and the memory of what has been seen."""

import argparse
import base64
import collections
import concurrent.futures
import json
import os
import pathlib
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
NAMESPACE = os.environ.get("CAPTCHA_NAMESPACE", "captcha")
JOBS = f"{NAMESPACE}.jobs"
RESULTS = f"{NAMESPACE}.results"
DIRECT_REPLY = "amq.rabbitmq.reply-to"
# How long an answer is wanted, and how much later its outcome may still arrive.
PATIENCE = timedelta(seconds=120)
GRACE = timedelta(seconds=30)
# How long the broker may take to confirm a job. A queue without a majority confirms nothing, and
# its connection lives on.
CONFIRM = float(os.environ.get("CAPTCHA_CONFIRM_SECONDS", "60"))
REMEMBERED = 100_000


class OutOfContract(Exception):
    """A message that the published schema refuses."""


class NotKnown(Exception):
    """A job that was neither confirmed nor refused. Under another id it would be another job, and its outcome no repeat."""

    def __init__(self, job: dict, why: str) -> None:
        super().__init__(f"not known whether the broker has job {job['id']} ({why}): publish it again under the same id")


def arguments(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--schema", type=pathlib.Path, metavar="FILE", help="refuse messages that this JSON Schema refuses")
    return parser


def job_of(image: pathlib.Path | None, name_it: str | None = None) -> dict:
    """A job of an image file; without one, of noise, which is for trying out with the simulator: the API would charge for it."""
    picture = image.read_bytes() if image else b"P5 32 16 255\n" + os.urandom(32 * 16)
    name = image.name if image else "noise.pgm"
    return {
        # Repeats of an outcome are dropped by this id: make it unique, and keep it where it is not
        # known whether the broker has the job.
        "id": name_it or f"{name[:100]}-{uuid.uuid4()}",
        "task": {"type": "ImageToTextTask", "body": base64.b64encode(picture).decode()},
        # Past the deadline nothing more is spent on the job.
        "deadline": (datetime.now(timezone.utc) + PATIENCE).isoformat(timespec="milliseconds"),
        "metadata": {"file": name},
    }


def reader(schema: pathlib.Path | None) -> Callable[[bytes], dict]:
    """Reads a message; with a schema, only one that it allows."""
    faults_of = faults_by(schema) if schema else lambda message: []

    def read(body: bytes) -> dict:
        try:
            message = json.loads(body)
        except ValueError as error:
            raise OutOfContract(f"not JSON: {error}") from None
        if faults := faults_of(message):
            raise OutOfContract("; ".join(faults))
        return message

    return read


def faults_by(schema: pathlib.Path) -> Callable[[dict], list[str]]:
    # Imported here, so that without --schema only the client is needed.
    import jsonschema

    kind = jsonschema.Draft202012Validator
    validator = kind(json.loads(schema.read_text()), format_checker=kind.FORMAT_CHECKER)
    return lambda message: [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(message)]


class Seen:
    """Delivery is at least once: an outcome can come twice, with the same message_id and the same captcha-replay-id, or none.

    A job that was replayed keeps its id, and what becomes of it then is no repeat: that header tells them apart.
    Here the last ones are kept in memory; a program that must not act twice keeps them where it keeps the effect, in the same transaction.
    """

    def __init__(self) -> None:
        self._keys: collections.OrderedDict[tuple, None] = collections.OrderedDict()

    def has(self, message_id: str | None, headers: dict | None) -> bool:
        return self._key(message_id, headers) in self._keys

    def add(self, message_id: str | None, headers: dict | None) -> None:
        """To be called once the outcome has been dealt with: where that fails, it must be new when it comes again."""
        # What the broker itself dead-lettered need not have an id.
        if message_id is None:
            return
        self._keys[self._key(message_id, headers)] = None
        if len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)

    @staticmethod
    def _key(message_id: str | None, headers: dict | None) -> tuple:
        return message_id, str((headers or {}).get("captcha-replay-id", ""))


def aside(act: Callable[[], object]) -> concurrent.futures.Future:
    """What act returns, from a thread that ends with the program: so a wait that has no end of its own gets one."""
    future: concurrent.futures.Future = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def run(main: Callable[[], int]) -> None:
    """Ends with what main returns, with 3 where a message was out of contract, and with 1 where a job's fate is not known, or nobody reads on."""
    try:
        sys.exit(main())
    except OutOfContract as fault:
        print(f"refused by the schema: {fault}", file=sys.stderr)
        sys.exit(3)
    except NotKnown as error:
        sys.exit(str(error))
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go; Python would try once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def tell(outcome: dict) -> int:
    """Prints what came of a job, and returns the exit code that says so."""
    print(json.dumps(outcome.get("solution") if outcome["status"] == "solved" else outcome["failure"]))
    return 0 if outcome["status"] == "solved" else 1


def no_answer(job: dict) -> int:
    """The copy is transient: where it does not come, the durable outcome still does."""
    print(f"no reply about {job['id']}: its outcome is, or will be, in {RESULTS} or in a dead-letter queue", file=sys.stderr)
    return 2
