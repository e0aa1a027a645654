"""Real parts: one RabbitMQ, and for each lane a simulator, replicas, a publisher and a consumer; all ended by their ids."""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pika

ROOT = Path(__file__).resolve().parents[2]
KEY = "simulator-key"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetched(url, body=None, patience=5):
    with urllib.request.urlopen(url, body, timeout=patience) as reply:
        return reply.read()


def until(what, seconds, holds):
    """Looks again and again; what cannot be asked does not hold yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := holds():
                return found
        except (OSError, pika.exceptions.AMQPError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


class Harness:
    """What is started is ended, whatever happens. `factor` is by how much spans are shorter than in earnest."""

    def __init__(self, worker, folder, factor=1):
        self.worker, self.folder, self.factor, self.processes = worker, folder, factor, []

    def start(self, name, command, env=None, **more):
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=more.pop("stdout", log), stderr=log, cwd=self.folder,
                                   start_new_session=True, **more)
        self.processes.append(process)
        return process

    def broker(self):
        self.node = self.folder / "broker"
        self.start("broker", [ROOT / "scripts/rabbitmq-node", "start", self.node])
        node_env = until("the broker's ports", 60, lambda: (self.node / "node.env").exists() and (self.node / "node.env").read_text())
        self.port = int(dict(line.split("=", 1) for line in node_env.split())["PORT"])
        until("the broker takes clients", 120, lambda: self.connection().close() or True)

    def ctl(self, *arguments):
        done = subprocess.run([ROOT / "scripts/rabbitmq-node", "ctl", self.node, "-q", *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise OSError(f"rabbitmqctl {arguments}: {done.stderr}")

    def amqp(self, port=None, vhost="%2f"):
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/{vhost}"

    def connection(self):
        return pika.BlockingConnection(pika.URLParameters(self.amqp() + "?blocked_connection_timeout=30"))

    def end(self):
        for process in reversed(self.processes):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        if hasattr(self, "node"):
            subprocess.run([ROOT / "scripts/rabbitmq-node", "clean", self.node], check=False, timeout=60)


class Lane:
    """A namespace with a simulator of its own; `settings` go to all its replicas."""

    def __init__(self, harness, name, replicas=1, scenario="", consume=True, vhost="%2f", **settings):
        self.harness, self.name, self.job, self.vhost = harness, name, f"captcha-{name}", vhost
        # As often within the rules' spans as it is by default; the worker takes no less than 5 s.
        self.settings = {"guard__balance_interval": f"{max(60 / harness.factor, 5):g}s", **settings}
        self.replicas, self.made = [], 0
        self.base, self.amqp = None, harness.amqp(vhost=vhost)
        self.ports = [free_port() for _ in range(replicas)]
        self.simulate(scenario)
        self.command("topology", "declare")
        if consume:
            harness.start(f"{name}-consumer", [harness.worker, "outcomes", "--ack", "--follow"], self.env(), stdout=subprocess.DEVNULL)

    def simulate(self, scenario):
        file = self.harness.folder / f"{self.name}.toml"
        file.write_text(scenario)
        port = free_port()
        self.api = f"http://127.0.0.1:{port}"
        self.harness.start(f"{self.name}-api", [self.harness.worker, "simulate", "--listen", f"127.0.0.1:{port}", "--scenario", file])
        until("the simulator answers", 30, lambda: fetched(f"{self.api}/_sim/health"))

    def env(self, **settings):
        named = {"broker__url": self.amqp, "broker__namespace": self.job, "solver__base_url": self.base or self.api, "solver__api_key": KEY, **settings}
        return {f"CAPTCHA_WORKER__{key.upper()}": str(value) for key, value in named.items()}

    def run(self, place, **settings):
        """Starts the replica of this place, once the one before has given its port back."""
        if place < len(self.replicas):
            self.replicas[place].wait(60)
        own = {"ops__listen": f"127.0.0.1:{self.ports[place]}", **self.settings, **settings}
        replica = self.harness.start(f"{self.job}-{place}", [self.harness.worker, "run"], self.env(**own))
        self.replicas[place:place + 1] = [replica]
        return replica

    def begin(self):
        """Starts what does not run."""
        for place in range(len(self.ports)):
            if place >= len(self.replicas) or self.replicas[place].poll() is not None:
                self.run(place)
            until(f"{self.job}: replica {place} is ready", 60, lambda: self.status(place)["ready"])

    def status(self, place):
        return json.loads(fetched(f"http://127.0.0.1:{self.ports[place]}/status"))

    def leader(self):
        return next(place for place in range(len(self.ports)) if self.status(place)["leads"])

    def control(self, **changes):
        fetched(f"{self.api}/_sim/control", json.dumps(changes).encode())

    def command(self, *arguments, given=None):
        return subprocess.run([self.harness.worker, *arguments], env={**os.environ, **self.env()}, input=given, capture_output=True,
                              check=True, cwd=self.harness.folder, timeout=60).stdout

    def jobs(self, count, script=None, site=False):
        lines = []
        for _ in range(count):
            self.made += 1
            body = base64.b64encode(f"{self.job} {self.made} ".encode() + os.urandom(150)).decode()
            task = {"type": "TurnstileTask", "websiteURL": "https://shop.example.com/", "websiteKey": body[:20]} if site else {
                "type": "ImageToTextTask", "body": body}
            if script:
                task["_sim"] = script
            lines.append(json.dumps({"id": f"{self.made}", "task": task}))
        return ("\n".join(lines) + "\n").encode()

    def publish(self, count, script=None, site=False):
        self.command("publish", "-", given=self.jobs(count, script, site))

    def feed(self, rate, script=None):
        """So many jobs a second, for as long as the trial goes on."""
        publisher = self.harness.start(f"{self.name}-publisher", [self.harness.worker, "publish", "-"], self.env(), stdin=subprocess.PIPE,
                                     stdout=subprocess.DEVNULL)

        def pour():
            try:
                while publisher.poll() is None:
                    publisher.stdin.write(self.jobs(1, script))
                    publisher.stdin.flush()
                    time.sleep(1 / rate)
            except OSError:
                pass
        threading.Thread(target=pour, daemon=True).start()
        return publisher
