"""Runs the Celery worker, and at SIGTERM gathers what its processes have noted of their polls."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

# Gossip, mingling and heartbeats between workers serve nobody here.
WORKER = "-m celery -A app worker --pool prefork --loglevel WARNING --without-gossip --without-mingle --without-heartbeat".split()


def report(samples):
    late = sorted(samples)
    p50, p99, most = (round(late[int(len(late) * share)] * 1000, 3) if late else 0 for share in (0.5, 0.99, 1 - 1e-12))
    print(json.dumps({"polls": len(late), "late_ms": {"p50": p50, "p99": p99, "max": most}}), flush=True)


def stop(worker):
    # Warm, then cold: an idle worker may notice the former only at its next turn, up to 5 s later.
    for signum in (signal.SIGTERM, signal.SIGQUIT):
        worker.send_signal(signum)
        try:
            return worker.wait(2)
        except subprocess.TimeoutExpired:
            continue
    worker.kill()  # its processes end when their pipe does


def main():
    # Blocked and then waited for, so that a signal at any moment is seen; the worker must not
    # inherit the mask.
    awaited = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    with tempfile.TemporaryDirectory() as folder:
        noted = Path(folder, "lateness")
        noted.touch()
        worker = subprocess.Popen(
            [sys.executable, *WORKER],
            cwd=Path(__file__).parent,
            env={**os.environ, "PEER_LATENESS": str(noted)},
            stdout=sys.stderr,  # its banner
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited),
        )
        if signal.sigwait(awaited) == signal.SIGCHLD:
            print(f"run.py: the worker ended by itself: {worker.wait()}", file=sys.stderr)
            return 1
        stop(worker)
        report(array("d", noted.read_bytes()))
    return 0


sys.exit(main())
