"""Makes every alert of deploy/prometheus/alerts.yml fire by causing what it warns of, in a real Prometheus over real fleets.

Usage: trial.py WORKER FOLDER [--faster N] [CAUSE…]

Every span of time in the rules is divided by N (10) so that an hour is six minutes; --faster 1 takes them as they are. Each cause has a lane of its own,
all at the same time, and beside them two lanes stand in which nothing is wrong and nothing may fire. Exit code 1 where an alert does not fire, does not
clear after what mends it, or fires where its cause does not explain it.
"""

import argparse
import json
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import causes
from harness import ROOT, Harness, fetched, free_port, until

SPAN = re.compile(r"(?<=\[)(\d+)([smh])(?=\])|(?<=for: )(\d+)([smh])$|(?<=offset )(\d+)([smh])", re.MULTILINE)
# The one bound of an expression that is a span, in seconds.
BOUND = "< 900"
SECONDS = {"s": 1, "m": 60, "h": 3600}
# What starting, and looking at queues every 15 s, may take beside the rules' own spans.
PATIENCE_SECONDS = 120


def faster(rules, factor):
    """The rules with shorter spans."""
    def shorter(found):
        number, unit = [part for part in found.groups() if part]
        return f"{round(int(number) * SECONDS[unit] * 1000 / factor)}ms"
    assert rules.count(BOUND) == 1, "the bound of CaptchaBalanceUnknown has changed"
    return SPAN.sub(shorter, rules).replace(BOUND, f"< {900 / factor}")


class Watch:
    """A Prometheus that scrapes every lane each second, and what fires in it."""

    def __init__(self, harness, lanes):
        rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
        (harness.folder / "alerts.yml").write_text(faster(rules, harness.factor))
        jobs = [{"job_name": lane.job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in lane.ports]}]} for lane in lanes]
        timing = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        # JSON is YAML.
        (harness.folder / "prometheus.yml").write_text(json.dumps({"global": timing, "rule_files": ["alerts.yml"], "scrape_configs": jobs}))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        harness.start("prometheus", ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus", f"--web.listen-address={address}"])
        until("Prometheus answers", 60, lambda: fetched(f"{self.url}/-/ready"))

    def firing(self, job, alert):
        query = urllib.parse.urlencode({"query": f'ALERTS{{alertstate="firing",job="{job}",alertname="{alert}"}}'})
        return json.loads(fetched(f"{self.url}/api/v1/query?{query}"))["data"]["result"]

    def value(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        found = json.loads(fetched(f"{self.url}/api/v1/query?{query}"))["data"]["result"]
        return float(found[0]["value"][1]) if found else 0

    def ever(self, job):
        """Every alert that has fired in this lane."""
        query = urllib.parse.urlencode({"query": f'max_over_time(ALERTS{{alertstate="firing",job="{job}"}}[3h])'})
        return {found["metric"]["alertname"] for found in json.loads(fetched(f"{self.url}/api/v1/query?{query}"))["data"]["result"]}


class Trial(threading.Thread):
    """One cause, from its infliction to its end."""

    def __init__(self, cause, watch, patience):
        super().__init__(daemon=True)
        self.cause, self.watch, self.patience = cause, watch, patience
        self.fired = self.cleared = None
        self.fault = ""

    def run(self):
        cause, began = self.cause, time.monotonic()
        try:
            cause.inflict()
            until(f"{cause.alert} fires", self.patience, lambda: self.watch.firing(cause.lane.job, cause.alert))
            self.fired = time.monotonic() - began
            self.say(f"fired after {self.fired:.0f} s")
            began = time.monotonic()
            cause.fix()
            until(f"{cause.alert} clears", self.patience, lambda: not self.watch.firing(cause.lane.job, cause.alert))
            self.cleared = time.monotonic() - began
            self.say(f"cleared after {self.cleared:.0f} s")
        except Exception as error:  # A broken trial is reported like one that failed, beside the others.
            self.fault = f"{type(error).__name__}: {error}"
            self.say(self.fault)

    def say(self, what):
        """On the way, since all of it takes minutes."""
        print(f"{self.cause.alert}: {what}", file=sys.stderr, flush=True)

    def row(self):
        strange = self.watch.ever(self.cause.lane.job) - self.cause.beside
        if strange:
            self.fault += f" fired beside it: {', '.join(sorted(strange))}"
        seconds = ["never" if span is None else f"{span:.0f} s" for span in (self.fired, self.cleared)]
        return [self.cause.alert, self.cause.title, *seconds, self.fault or "fine"]


def carry_out(harness, wanted):
    harness.broker()
    plays = [make(harness) for make in causes.ALL if not wanted or make.__name__ in wanted]
    for cause in plays:
        cause.lane.begin()
    calm = causes.calm(harness)
    watch = Watch(harness, [cause.lane for cause in plays] + calm)
    replicas = sum(len(lane.ports) for lane in [*calm, *(cause.lane for cause in plays)])
    # Twice: an increase is seen from a first value only.
    until("every replica is scraped", 60, lambda: watch.value("count(count_over_time(captcha_ready[1h]) > 1)") >= replicas)
    trials = [Trial(cause, watch, 4200 / harness.factor + PATIENCE_SECONDS) for cause in plays]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join()
    rows = [trial.row() for trial in trials]
    for lane in calm:
        fired = watch.ever(lane.job)
        rows.append(["none", f"the {lane.name} lane", "", "", ", ".join(sorted(fired)) or "fine"])
    return rows


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("worker", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--faster", type=float, default=10, metavar="N")
    arguments.add_argument("causes", nargs="*", metavar="CAUSE", help=", ".join(make.__name__ for make in causes.ALL))
    options = arguments.parse_intermixed_args()
    if unknown := set(options.causes) - {make.__name__ for make in causes.ALL}:
        arguments.error(f"no such cause: {', '.join(sorted(unknown))}")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder.resolve(), prefix="alerts-"))
    # Ended like this, it would leave a hundred processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    harness = Harness(options.worker.resolve(), folder, options.faster)
    try:
        rows = carry_out(harness, set(options.causes))
    finally:
        harness.end()
    table = [["alert", "cause", "fired after", "cleared after", ""], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    broken = [row for row in rows if row[4] != "fine"]
    print(f"{len(rows) - len(broken)} as expected, {len(broken)} not; spans divided by {options.faster:g}; logs in {folder}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
