"""Deploy files against published schemas and against each other.

Usage: main.py OVERLAY=RENDERED… where RENDERED is what `kubectl kustomize` made of deploy/kubernetes/overlays/OVERLAY.
Prints a line for each fault, and exits with 1 where there is any.
"""

import json
import sys
import tomllib
from pathlib import Path

import yaml

import boards
import chart
import schemas
import ties
import watched

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "deploy/kubernetes/overlays"


def reported(where, check):
    """The faults of one check; one that cannot even be carried out is a fault too."""
    try:
        yield from (f"{where}: {fault}" for fault in check())
    except (KeyError, OSError, TypeError, ValueError) as error:
        yield f"{where}: not as expected: {type(error).__name__}: {error}"


def overlay_faults(name, rendered, defaults, helm):
    things = [thing for thing in yaml.safe_load_all(Path(rendered).read_text()) if thing]
    for thing in things:
        where = f"{name}: {thing['kind']} {thing['metadata']['name']}"
        yield from reported(where, lambda: schemas.faults(thing))
    yield from reported(name, ties.Overlay(things, defaults).faults)
    values = yaml.safe_load((OVERLAYS / name / "values.yaml").read_text())
    yield from reported(f"{name}, by kustomize and by the chart", lambda: helm.overlay_faults(things, values))


def grafana_faults():
    grafana = ROOT / "deploy/grafana"
    sources = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yml").read_text())
    board = json.loads((grafana / "dashboard.json").read_text())
    yield from ties.grafana_faults(sources, board)
    yield from boards.faults(board)


def watched_faults():
    prometheus, metrics = ROOT / "deploy/prometheus", (ROOT / "docs/METRICS.md").read_text()
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    yield from watched.dashboard_faults(dashboard, metrics)
    alerts, tests = yaml.safe_load((prometheus / "alerts.yml").read_text()), (prometheus / "alerts.test.yml").read_text()
    yield from watched.alert_faults(alerts, tests, metrics, (ROOT / "docs/OPERATIONS.md").read_text())


def main(arguments):
    rendered = dict(argument.split("=", 1) for argument in arguments)
    present = {overlay.parent.name for overlay in OVERLAYS.glob("*/kustomization.yaml")}
    if set(rendered) != present or not present:
        sys.exit(f"the overlays are {sorted(present)}, and rendered are {sorted(rendered)}")
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())
    drain = defaults["worker"]["drain_timeout"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    unit = (ROOT / "deploy/systemd/captcha-worker@.service").read_text()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    helm = chart.Helm(ROOT / "deploy/helm/captcha-worker", defaults)
    faults = [fault for name, file in rendered.items() for fault in overlay_faults(name, file, defaults, helm)]
    faults += reported("chart", lambda: helm.faults(version, alerts))
    faults += reported("docker-compose.yml", lambda: ties.compose_faults(compose, drain, ROOT))
    faults += reported("dashboard.json", grafana_faults)
    faults += reported("alerts and dashboard", watched_faults)
    faults += reported("captcha-worker@.service", lambda: ties.unit_faults(unit, drain))
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main(sys.argv[1:])
