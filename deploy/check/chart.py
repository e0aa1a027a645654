"""The Helm chart: that it renders for each overlay what kustomize does, that all of its values render, and what it refuses."""

import re
import shutil
import tempfile
import tomllib

import helm_python
import yaml

import schemas
import ties

# What Helm and this chart add to an object, and kustomize does not.
ADDED = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart",
         "checksum/settings"}

CALLBACK = {"listen": "0.0.0.0:8190", "public_url": "https://callbacks.example.com"}
# Values that must not render, and a word of the message.
REFUSED = [
    ({"settings": {"broker": {"url": "amqp://user:password@broker/"}}}, "broker"),
    ({"settings": {"solver": {"api_key": "key"}}}, "solver"),
    ({"settings": {"worker": {"drain_timeout": "1m 30s"}}}, "drain_timeout"),
    ({"settings": {"ops": {"listen": "127.0.0.1:9464"}}}, "listen"),
    ({"settings": {"ops": {"admin_token_file": "/etc/token"}}}, "admin_token_file"),
    ({"settings": {"lanes": {"Bulk": {"weight": 1}}}}, "Bulk"),
    ({"replicaCount": 3}, "replicaCount"),
    ({"autoscaling": {"kind": "vpa"}}, "kind"),
    ({"monitoring": {"podMonitor": True, "serviceMonitor": True}}, "scraped twice"),
    ({"callbackIngress": {"enabled": True}}, "settings.callback"),
    ({"callbackIngress": {"enabled": True},
      "settings": {"callback": {**CALLBACK, "public_url": "https://{replica}.example.com"}}}, "{replica}"),
]


class Helm:
    """The chart of a folder, rendered by Helm's own engine."""

    def __init__(self, folder, defaults):
        self.values = sorted(folder.glob("ci/*.yaml"))
        self.defaults = defaults
        # A copy without symbolic links: Helm reports each link that it follows.
        self.copy = tempfile.TemporaryDirectory()
        self.folder = shutil.copytree(folder, f"{self.copy.name}/captcha-worker")
        self.chart = helm_python.Chart.load(self.folder)

    def render(self, values):
        files = self.chart.render(values, name="captcha-worker", namespace="captcha")
        objects = (thing for name, text in files.items() if name.endswith(".yaml") for thing in yaml.safe_load_all(text))
        return [thing for thing in objects if thing]

    def faults(self, version, alerts):
        metadata = self.chart.metadata
        if {metadata["version"], metadata["appVersion"]} != {version}:
            yield f"version {metadata['version']}, appVersion {metadata['appVersion']}, and Cargo.toml's is {version}"
        for file in [None, *self.values]:
            values, where = ({}, "values.yaml") if file is None else (yaml.safe_load(file.read_text()), f"ci/{file.name}")
            yield from (f"{where}: {fault}" for fault in self.values_faults(values, alerts))
        for values, word in REFUSED:
            try:
                self.render(values)
                yield f"{values} is not refused"
            except helm_python.HelmError as error:
                if word not in str(error):
                    yield f"{values} is refused, but not for {word!r}: {error}"

    def values_faults(self, values, alerts):
        report = helm_python.lint(self.folder, values, strict=True)
        yield from (f"helm lint: {one['path']}: {one['error']}" for one in report["messages"] if one["severity"] > 1)
        yield from (f"helm lint: {error}" for error in report["errors"])
        things = self.render(values)
        for thing in things:
            yield from (f"{thing['kind']}: {fault}" for fault in schemas.faults(thing))
        yield from ties.Overlay(things, self.defaults).faults()
        merged = self.chart.merge_values(values)
        yield from self.rules_faults(things, merged["monitoring"], alerts)
        written = tomllib.loads(one(things, "ConfigMap")["data"]["settings.toml"])
        if written != merged["settings"]:
            yield f"the settings are {merged['settings']}, and written is {written}"

    def rules_faults(self, things, monitoring, alerts):
        if not monitoring["rules"]:
            return
        spec = one(things, "PrometheusRule")["spec"]
        prefix = monitoring["runbookPrefix"]
        for group in spec["groups"]:
            for rule in group["rules"]:
                rule["annotations"]["runbook_url"] = rule["annotations"]["runbook_url"].removeprefix(prefix)
        if spec != alerts:
            yield "the PrometheusRule is not deploy/prometheus/alerts.yml"

    def overlay_faults(self, kustomized, values):
        """Where an overlay's objects differ from those that the chart makes of its values.yaml."""
        ours = by_name(thing for thing in kustomized if thing["kind"] != "Namespace")
        theirs = by_name(self.render(values))
        for name in sorted(ours.keys() | theirs.keys()):
            yield from (f"{' '.join(name)}{fault}" for fault in different(ours.get(name), theirs.get(name), ""))


def one(things, kind):
    (found,) = (thing for thing in things if thing["kind"] == kind)
    return found


def by_name(things):
    plain = [bare(thing) for thing in things]
    for thing in plain:
        thing["metadata"].pop("namespace", None)
        if thing["kind"] == "ConfigMap":
            thing["data"] = {file: tomllib.loads(text) for file, text in thing["data"].items()}
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in plain}


def bare(part):
    """Without what Helm adds, and without the hash that kustomize adds to the name of settings."""
    if isinstance(part, dict):
        kept = {key: bare(value) for key, value in part.items() if key not in ADDED}
        return {key: value for key, value in kept.items() if not (key == "annotations" and not value)}
    if isinstance(part, list):
        return [bare(value) for value in part]
    if isinstance(part, str):
        return re.sub(r"^captcha-worker-settings-[0-9a-z]{10}$", "captcha-worker-settings", part)
    return part


def different(ours, theirs, path):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from different(ours.get(key), theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs)):
            yield from different(*pair, f"{path}[{index}]")
    elif ours != theirs:
        yield f"{path}: kustomize has {ours!r}, the chart {theirs!r}"
