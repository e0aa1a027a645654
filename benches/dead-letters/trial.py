"""10,000 dead letters of mixed classes, made by a real fleet; found, replayed at a rate with kill -9 in the middle, and every one accounted for.

Usage: trial.py WORKER FOLDER

Prints a table, and exits with 1 where any count is not what was published, more than 32 jobs are repeated by a kill, or a letter is missing.
"""

import argparse
import base64
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "alerts"))

import pika  # noqa: E402
from harness import Lane, Harness, until  # noqa: E402

MOST_REPEATED = 32
RATE = 500
SECRET = "pl4nted-proxy"
# Seconds after its first outcome at which a replay is killed.
KILLS = (1, 2, 1)


def image(id, script):
    body = base64.b64encode(f"{id} ".encode() + os.urandom(150)).decode()
    return json.dumps({"id": id, "task": {"type": "ImageToTextTask", "body": body, "_sim": script}})


def proxied(site):
    def make(id, script):
        task = {"type": "TurnstileTask", "websiteURL": f"https://{site}/{id}", "websiteKey": "k", "proxyType": "http", "proxyAddress": "192.0.2.7",
                "proxyPort": 8080, "proxyLogin": "login", "proxyPassword": SECRET, "_sim": script}
        return json.dumps({"id": id, "task": task})
    return make


def failing(code):
    """The first submission fails; the next ones do not."""
    return {"create": [code, "ok"]}


class Kind:
    """Jobs that end alike."""

    def __init__(self, name, count, of, make, script=None, expires=False, replayed=False):
        self.name, self.count, self.of, self.make, self.script, self.expires, self.replayed = name, count, of, make, script, expires, replayed
        self.ids = [f"{name}-{n}" for n in range(count)]

    def bodies(self):
        return ((id, self.make(id, self.script)) for id in self.ids)


def kinds():
    image_task, turnstile = "ImageToTextTask", "TurnstileTask"
    named = lambda class_, code, task_type: (class_, code, task_type)
    return [
        Kind("late", 1000, named("raw", "expired", image_task), image, {}, expires=True, replayed=True),
        Kind("unsolvable", 2000, named("unsolved", "ERROR_CAPTCHA_UNSOLVABLE", image_task), image, failing("ERROR_CAPTCHA_UNSOLVABLE"), replayed=True),
        Kind("refused", 2000, named("proxy", "ERROR_PROXY_CONNECT_REFUSED", turnstile), proxied("shop.example.com"),
             failing("ERROR_PROXY_CONNECT_REFUSED"), replayed=True),
        Kind("timeout", 500, named("proxy", "ERROR_PROXY_READ_TIMEOUT", turnstile), proxied("shop.example.com"), failing("ERROR_PROXY_READ_TIMEOUT")),
        Kind("unsupported", 1500, named("invalid", "ERROR_TASK_NOT_SUPPORTED", image_task), image, failing("ERROR_TASK_NOT_SUPPORTED")),
        Kind("foreign", 1500, named("forbidden", "POLICY_SITE_NOT_ALLOWED", turnstile), proxied("elsewhere.example"), {}),
        Kind("next-year", 500, named("unknown", "ERROR_OF_NEXT_YEAR", image_task), image, failing("ERROR_OF_NEXT_YEAR")),
        Kind("misspelt", 500, named("malformed", "UNKNOWN_FIELD", None), lambda id, script: json.dumps({"id": id, "tsak": {}})),
        Kind("garbage", 500, named("malformed", "NOT_JSON", None), lambda id, script: f"no job: {id}"),
    ]


class Trial:
    def __init__(self, stage):
        self.stage, self.kinds, self.faults, self.notes = stage, kinds(), [], []
        self.lane = Lane(stage, "dead", replicas=2, scenario="balance = 100000.0\n", consume=False, policy__allowed_domains="shop.example.com", retry__unknown_timeout="0s",
                         retry__max_resubmissions=0, log__level="error")
        self.total = sum(kind.count for kind in self.kinds)

    def expect(self, what, wanted, found):
        if wanted != found:
            self.faults.append(f"{what}: {found} instead of {wanted}")

    def depth(self, *queues):
        connection = self.stage.connection()
        try:
            return sum(connection.channel().queue_declare(f"{self.lane.job}.{queue}", passive=True).method.message_count for queue in queues)
        finally:
            connection.close()

    def dead(self, *arguments):
        """A command's report, and how long it took."""
        began = time.monotonic()
        out = self.lane.command("dead", *arguments)
        return json.loads(out), time.monotonic() - began

    def publish(self, wanted):
        connection = self.stage.connection()
        channel = connection.channel()
        channel.confirm_delivery()
        for kind in wanted:
            for id, body in kind.bodies():
                properties = pika.BasicProperties(delivery_mode=2, message_id=id, expiration="1" if kind.expires else None)
                channel.basic_publish(f"{self.lane.job}.jobs", "", body, properties, mandatory=True)
        connection.close()

    def make(self):
        began = time.monotonic()
        self.publish([kind for kind in self.kinds if kind.expires])
        expired = sum(kind.count for kind in self.kinds if kind.expires)
        until("expired jobs are put aside", 60, lambda: self.depth("dead.raw") == expired)
        self.lane.begin()
        self.publish([Kind("canary", 1, None, image, {})])
        until("the canary is solved", 60, lambda: self.depth("results") == 1)
        self.publish([kind for kind in self.kinds if not kind.expires])
        queues = sorted({f"dead.{kind.of[0]}" for kind in self.kinds})
        until("every job has failed", 120, lambda: self.depth(*queues) == self.total)
        self.notes.append(f"{self.total} dead letters made in {time.monotonic() - began:.0f} s")

    def counted(self, report):
        return {(kind["class"], kind["code"], kind["type"]): kind["count"] for kind in report["kinds"]}

    def find(self):
        report, seconds = self.dead("list")
        self.expect("letters not scanned", 0, report["not_scanned"])
        self.expect("unreadable letters", 0, report["unreadable"])
        self.found = self.counted(report)
        self.expect("kinds found", {kind.of: kind.count for kind in self.kinds}, self.found)
        self.notes.append(f"dead list: {report['scanned']} letters scanned in {seconds:.1f} s")

    def filters(self):
        wanted = [kind.of for kind in self.kinds if kind.replayed]
        return ["--class", ",".join(sorted({of[0] for of in wanted})), "--code", ",".join(sorted({of[1] for of in wanted}))]

    def dry_run(self):
        report, _ = self.dead("replay", *self.filters(), "--dry-run")
        self.dry = self.counted(report)
        self.expect("kinds a dry run chooses", {kind.of: kind.count for kind in self.kinds if kind.replayed}, self.dry)
        again, _ = self.dead("list")
        self.expect("kinds after the dry run", self.found, self.counted(again))
        self.expect("jobs after the dry run", 0, self.depth("jobs"))

    def exported(self, name, *more):
        file = self.stage.folder / name
        self.lane.command("dead", "export", *more, file)
        text = file.read_text()
        letters = {}
        for line in map(json.loads, text.splitlines()):
            letters[line["properties"]["message_id"]] = (line["queue"], line["letter"])
        return letters, text

    def replay(self):
        """Killed in the middle, twice, and then to the end."""
        command = ["dead", "replay", *self.filters(), "--rate", f"{RATE}/s"]
        self.kills, self.repeated, chosen = 0, [], sum(self.dry.values())
        for seconds in KILLS:
            before = self.depth("results")
            doomed = self.stage.start("replay", [self.stage.worker, *command], self.lane.env())
            until("a replay is under way", 60, lambda: self.depth("results") > before)
            time.sleep(seconds)
            self.kills += doomed.poll() is None
            doomed.kill()
            doomed.wait()
            # What it has published is solved, so that outcomes show when the next one is under way.
            until("its jobs are solved", 60, self.idle)
            # Published, and not removed: the next run publishes them once more. The canary is no
            # replay.
            left, _ = self.dead("replay", *self.filters(), "--dry-run")
            published, removed = self.depth("results") - 1, chosen - left["chosen"]
            self.repeated.append(published - removed - sum(self.repeated))
        self.expect("replays killed under way", len(KILLS), self.kills)
        began = time.monotonic()
        report = json.loads(self.lane.command(*command))
        seconds = time.monotonic() - began
        self.notes.append(f"the last run: {report['replayed']} jobs published again in {seconds:.1f} s, asked for {RATE}/s")
        left, _ = self.dead("replay", *self.filters(), "--dry-run")
        self.expect("chosen letters left", 0, left["chosen"])

    def idle(self):
        waiting = json.loads(self.lane.command("status", "--json"))
        return self.depth("jobs", "tickets") == 0 and all(replica["in_flight"] == 0 for replica in waiting["replicas"])

    def collect(self):
        """Every outcome, once nothing is on its way any more."""
        queues = ["jobs", "tickets", "retry.5s", "retry.30s", "retry.2m", "retry.10m"]
        chosen = {id for kind in self.kinds if kind.replayed for id in kind.ids}
        connection = self.stage.connection()
        channel = connection.channel()
        self.outcomes = []
        deadline, quiet = time.monotonic() + 90, 0
        while (quiet < 5 or not chosen <= {outcome["id"] for outcome in self.outcomes}) and time.monotonic() < deadline:
            came = 0
            for method, _, body in channel.consume(f"{self.lane.job}.results", auto_ack=True, inactivity_timeout=1):
                if method is None:
                    break
                came += 1
                outcome = json.loads(body)
                if not outcome["id"].startswith("canary"):
                    self.outcomes.append(outcome)
            quiet = quiet + 1 if came == 0 and self.depth(*queues) == 0 else 0
        connection.close()

    def account(self):
        marks, ids = Counter(), {}
        for outcome in self.outcomes:
            self.expect(f"replays of {outcome['id']}", 1, outcome.get("replays"))
            marks[outcome.get("replay_id")] += 1
            ids.setdefault(outcome["id"], set()).add(outcome.get("replay_id"))
        chosen = {id for kind in self.kinds if kind.replayed for id in kind.ids}
        self.expect("replayed jobs without an outcome", set(), chosen - set(ids))
        self.expect("outcomes of jobs that were not chosen", set(), set(ids) - chosen)
        self.expect("jobs with two replay ids", 0, sum(len(own) > 1 for own in ids.values()))
        self.ended = set(ids)
        repeated = sum(marks.values()) - len(marks)
        self.expect("jobs repeated, by kill", sum(self.repeated), repeated)
        if max(self.repeated) > MOST_REPEATED:
            self.faults.append(f"a kill repeated more than {MOST_REPEATED} jobs: {self.repeated}")
        by_kill = ", ".join(map(str, self.repeated))
        self.notes.append(f"jobs repeated by each of {self.kills} kills, known by their replay_id: {by_kill} (allowed: {MOST_REPEATED})")

    def carry_out(self):
        self.make()
        self.find()
        before, _ = self.exported("before.ndjson", "--show-secrets")
        masked = self.exported("masked.ndjson")[1]
        self.expect("secrets in a masked export", 0, masked.count(SECRET))
        self.dry_run()
        self.replay()
        self.collect()
        self.account()
        after, _ = self.exported("after.ndjson", "--show-secrets")
        self.expect("letters before", self.total, len(before))
        rows = []
        for kind in self.kinds:
            untouched = sum(after.get(id) == before.get(id) is not None for id in kind.ids)
            ended = sum(id in self.ended for id in kind.ids)
            wanted = (kind.count, 0) if kind.replayed else (0, kind.count)
            self.expect(f"{kind.name}: ended and untouched", wanted, (ended, untouched))
            class_, code, task_type = kind.of
            rows.append([class_, code, task_type or "", str(kind.count), str(self.found.get(kind.of, 0)), str(self.dry.get(kind.of, 0)), str(ended), str(untouched)])
        return rows


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("worker", type=Path)
    arguments.add_argument("folder", type=Path)
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(dir=options.folder.resolve(), prefix="dead-letters-"))
    stage = Harness(options.worker.resolve(), folder)
    try:
        stage.broker()
        trial = Trial(stage)
        rows = trial.carry_out()
    finally:
        stage.end()
    head = ["class", "code", "type", "published", "found", "dry run", "replayed and ended", "untouched"]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(*trial.notes, sep="\n")
    for fault in trial.faults[:20]:
        print(f"not as it should be: {fault[:300]}")
    accounted = "every one accounted for" if not trial.faults else f"{len(trial.faults)} faults"
    print(f"{trial.total} letters, {accounted}, {time.monotonic() - began:.0f} s; logs in {folder}")
    sys.exit(bool(trial.faults))


if __name__ == "__main__":
    main()
