"""What is watched: that alerts and dashboard ask for metrics that there are, and that every alert is tried and explained."""

import re

METRIC = re.compile(r"\bcaptcha_[a-z0-9_]+")
LISTED = re.compile(r"^\| `(captcha_[a-z0-9_]+)` \| (\w+) \|", re.MULTILINE)
SEVERITIES = {"page", "ticket"}
# What another panel says as well: calls of getTaskResult, the state of the session in "Ready",
# hand-overs in "unheld"; and two moments in time.
UNSHOWN = {"captcha_polls_total", "captcha_connected", "captcha_tickets_taken_total", "captcha_guard_next_probe_timestamp_seconds",
           "captcha_balance_timestamp_seconds"}


def known(metrics_md):
    """Every series that docs/METRICS.md tells of; a histogram is three."""
    listed = dict(LISTED.findall(metrics_md))
    parts = {name + part for name, kind in listed.items() if kind == "histogram" for part in ("_bucket", "_sum", "_count")}
    return set(listed) | parts


def unknown_metrics(text, metrics_md):
    for name in sorted(set(METRIC.findall(text)) - known(metrics_md)):
        yield f"{name} is not in docs/METRICS.md"


def rules(alerts):
    return [rule for group in alerts["groups"] for rule in group["rules"]]


def expressions(dashboard):
    """Every query of a dashboard, those of its variables too."""
    if isinstance(dashboard, dict):
        for key, value in dashboard.items():
            if key in {"expr", "query", "definition"} and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(dashboard, list):
        for item in dashboard:
            yield from expressions(item)


def alert_faults(alerts, tests, metrics_md, operations_md):
    headings = set(re.findall(r"^### (\w+)$", operations_md, re.MULTILINE))
    fired = set(re.findall(r'alertname="(\w+)"', tests))
    for rule in rules(alerts):
        name, notes = rule["alert"], rule["annotations"]
        if rule["labels"]["severity"] not in SEVERITIES:
            yield f"{name}: severity is none of {sorted(SEVERITIES)}"
        if not notes["summary"] or not notes["description"]:
            yield f"{name}: nothing is said"
        if notes["runbook_url"] != f"docs/OPERATIONS.md#{name.lower()}" or name not in headings:
            yield f"{name}: docs/OPERATIONS.md has no heading of that name, or runbook_url is not it"
        if name not in fired:
            yield f"{name}: never fires in alerts.test.yml"
        yield from (f"{name}: {fault}" for fault in unknown_metrics(rule["expr"], metrics_md))


def dashboard_faults(dashboard, metrics_md):
    queries = list(expressions(dashboard))
    if not queries:
        yield "asks for nothing"
    yield from unknown_metrics("\n".join(queries), metrics_md)
    shown = set(METRIC.findall("\n".join(queries)))
    for name, _ in LISTED.findall(metrics_md):
        if not {name, f"{name}_bucket", f"{name}_count"} & shown and name not in UNSHOWN:
            yield f"{name} is not on it"
