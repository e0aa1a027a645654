#!/usr/bin/env python3
"""What one job costs `captcha-worker run`: CPU per job, and memory per job in flight.

    make bench-smoke            (builds, starts a private RabbitMQ, runs this)

Load: ImageToTextTask of 6,000 bytes, 2,000 in flight, answers after a fixed time, on a real RabbitMQ and the simulator, all on this
machine. CPU is user + system time of the worker's process alone (/proc/PID/stat); memory is its resident set (/proc/PID/status), at its
peak, less what it has before the first job, divided by the jobs in flight. Figures depend on the machine; no other command's do.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid

import pika

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_kb(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def stats(base_url):
    with urllib.request.urlopen(f"{base_url}/_sim/stats", timeout=10) as reply:
        return json.load(reply)


def wait_until(what, seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", default="target/release/captcha-worker")
    arguments.add_argument("--jobs", type=int, default=6_000)
    arguments.add_argument("--in-flight", type=int, default=2_000)
    arguments.add_argument("--image-bytes", type=int, default=6_000)
    arguments.add_argument("--solve-ms", type=int, default=5_000)
    options = arguments.parse_args()
    amqp = os.environ.get("CAPTCHA_WORKER_TEST_AMQP") or sys.exit("run this by `make bench-smoke`: it needs a broker")
    namespace = f"bench-{uuid.uuid4().hex[:8]}"

    scenario = f"target/bench-{namespace}.toml"
    with open(scenario, "w") as file:
        file.write(f"latency_ms = {{ fixed = 0 }}\nbalance = 1000000.0\n[types.ImageToTextTask]\nsolve_ms = {{ fixed = {options.solve_ms} }}\n")
    simulator = subprocess.Popen(
        [options.binary, "simulate", "--listen", "127.0.0.1:0", "--json", "--scenario", scenario], stdout=subprocess.PIPE, text=True
    )
    worker = None
    try:
        base_url = json.loads(simulator.stdout.readline())["listening"]
        environment = dict(
            os.environ,
            CAPTCHA_WORKER__BROKER__URL=amqp,
            CAPTCHA_WORKER__BROKER__NAMESPACE=namespace,
            CAPTCHA_WORKER__SOLVER__BASE_URL=base_url,
            CAPTCHA_WORKER__SOLVER__API_KEY="simulator-key",
            CAPTCHA_WORKER__WORKER__MAX_IN_FLIGHT=str(options.in_flight),
            CAPTCHA_WORKER__WORKER__SUBMIT_CONCURRENCY="64",
        )
        subprocess.run([options.binary, "topology", "declare"], env=environment, check=True, stdout=subprocess.DEVNULL)
        worker = subprocess.Popen([options.binary, "run"], env=environment, stderr=subprocess.DEVNULL)
        connection = pika.BlockingConnection(pika.URLParameters(amqp))
        channel = connection.channel()
        depth = lambda queue: channel.queue_declare(f"{namespace}.{queue}", passive=True).method
        wait_until("the worker consumes", 30, lambda: depth("jobs").consumer_count > 0)
        time.sleep(1)  # Start-up's own work must not be counted as a job's.
        idle_kb, idle_cpu, began = resident_kb(worker.pid), cpu_seconds(worker.pid), time.monotonic()

        for n in range(options.jobs):
            picture = n.to_bytes(4, "big") + os.urandom(options.image_bytes - 4)
            job = {"id": f"b{n}", "task": {"type": "ImageToTextTask", "body": base64.b64encode(picture).decode()}}
            channel.basic_publish(f"{namespace}.jobs", "jobs", json.dumps(job).encode(), pika.BasicProperties(delivery_mode=2))
        peak = {"kb": 0, "in_flight": 0}

        def done():
            peak["kb"] = max(peak["kb"], resident_kb(worker.pid))
            peak["in_flight"] = max(peak["in_flight"], stats(base_url)["tasks_open"])
            return depth("results").message_count >= options.jobs

        wait_until("all jobs end", 300, done)
        seconds, cpu = time.monotonic() - began, cpu_seconds(worker.pid) - idle_cpu
        counted = stats(base_url)
        report = {
            "jobs": options.jobs,
            "seconds": round(seconds, 1),
            "jobs_per_second": round(options.jobs / seconds, 1),
            "cpu_ms_per_job": round(cpu / options.jobs * 1000, 3),
            "polls_per_job": round(counted["polls"] / options.jobs, 2),
            "peak_in_flight": peak["in_flight"],
            "idle_mib": round(idle_kb / 1024, 1),
            "peak_mib": round(peak["kb"] / 1024, 1),
            "kb_per_job_in_flight": round((peak["kb"] - idle_kb) / max(peak["in_flight"], 1), 2),
            "early_polls": counted["early_polls"],
            "repeated_submissions": counted["repeated_submissions"],
        }
        print(json.dumps(report, indent=2))
        if counted["early_polls"] or counted["repeated_submissions"]:
            sys.exit("the worker broke a rule of the API")
    finally:
        for process in [worker, simulator]:
            if process:
                process.terminate()
                process.wait(timeout=60)
        os.unlink(scenario)


if __name__ == "__main__":
    main()
