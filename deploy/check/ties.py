"""What must fit together, and stands in different files."""

import re
import tomllib

UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}
# What closing the session may take when the drain's own time is used up, and room for a slow
# machine.
MARGIN_SECONDS = 10


def seconds(text):
    """ "1m 30s" → 90.0 """
    parts = re.findall(r"(\d+)\s*([a-z]+)", str(text))
    if not parts or any(unit not in UNITS for _, unit in parts):
        raise ValueError(f"no duration: {text!r}")
    return sum(int(number) * UNITS[unit] for number, unit in parts)


def outlasts(where, patience, drain):
    """Whoever kills must wait for longer than a drain takes."""
    if seconds(patience) < seconds(drain) + MARGIN_SECONDS:
        yield f"{where}: {patience} is not {MARGIN_SECONDS} s above worker.drain_timeout, {drain}"


class Overlay:
    """The objects of one overlay, as they are applied."""

    def __init__(self, things, defaults):
        self.things = things
        self.defaults = defaults

    def one(self, kind):
        found = [thing for thing in self.things if thing["kind"] == kind]
        if len(found) != 1:
            raise ValueError(f"{len(found)} objects of kind {kind}, not one")
        return found[0]

    def settings(self):
        return tomllib.loads(self.one("ConfigMap")["data"]["settings.toml"])

    def setting(self, section, key):
        return self.settings().get(section, {}).get(key, self.defaults[section][key])

    def faults(self):
        pod = self.one("Deployment")["spec"]["template"]["spec"]
        grace = f"{pod['terminationGracePeriodSeconds']}s"
        yield from outlasts("terminationGracePeriodSeconds", grace, self.setting("worker", "drain_timeout"))
        yield from self.confined(pod)
        yield from self.wired(pod)
        yield from self.selected()
        yield from self.scaled()

    def confined(self, pod):
        (container,) = pod["containers"]
        wanted = {
            "runAsNonRoot": pod["securityContext"]["runAsNonRoot"] is True,
            "seccompProfile": pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
            "readOnlyRootFilesystem": container["securityContext"]["readOnlyRootFilesystem"] is True,
            "allowPrivilegeEscalation": container["securityContext"]["allowPrivilegeEscalation"] is False,
            "capabilities": container["securityContext"]["capabilities"] == {"drop": ["ALL"]},
            "automountServiceAccountToken": pod["automountServiceAccountToken"] is False,
            "resources.limits.memory": "memory" in container["resources"]["limits"],
            "secrets as files, not in the environment": "env" not in container and "envFrom" not in container,
        }
        yield from (f"the pod is not confined: {what}" for what, holds in wanted.items() if not holds)

    def wired(self, pod):
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        listen = self.setting("ops", "listen")
        if listen != f"0.0.0.0:{ports['ops']}":
            yield f"ops.listen is {listen}, and the port for it {ports['ops']}"
        served = {port["targetPort"]: port["port"] for port in self.one("Service")["spec"]["ports"]}
        if served != ports:
            yield f"the Service has the ports {served}, and the pod {ports}"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        if volumes["settings"]["configMap"]["name"] != self.one("ConfigMap")["metadata"]["name"]:
            yield "the pod mounts other settings than the overlay's"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        secrets = [f"{mounts['secrets']}/{item['path']}" for item in volumes["secrets"]["secret"]["items"]]
        named = {f"{section}.{key}": self.setting(section, key)
                 for section, key in [("broker", "url_file"), ("solver", "api_key_file"), ("ops", "admin_token_file")]}
        # The console's log-in is off by default.
        if set(named.values()) - {""} != set(secrets):
            yield f"the settings name the secrets {named}, and mounted are {secrets}"

    def selected(self):
        labels = self.one("Deployment")["spec"]["template"]["metadata"]["labels"].items()
        selectors = {
            "Deployment": self.one("Deployment")["spec"]["selector"],
            "PodDisruptionBudget": self.one("PodDisruptionBudget")["spec"]["selector"],
            "NetworkPolicy": self.one("NetworkPolicy")["spec"]["podSelector"],
            "Service": {"matchLabels": self.one("Service")["spec"]["selector"]},
            **{thing["kind"]: thing["spec"]["selector"] for thing in self.things if thing["kind"] in {"PodMonitor", "ServiceMonitor"}},
        }
        for kind, selector in selectors.items():
            if not selector.get("matchLabels") or not selector["matchLabels"].items() <= labels:
                yield f"{kind} does not select the pods: {selector}"

    def scaled(self):
        deployment = self.one("Deployment")
        scalers = [thing for thing in self.things if thing["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}]
        if not scalers:
            if deployment["spec"]["replicas"] < 2:
                yield "one replica only: none takes over while it moves"
            return
        if "replicas" in deployment["spec"]:
            yield f"the Deployment sets replicas, which the {scalers[0]['kind']} decides"
        for scaler in scalers:
            if scaler["spec"]["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
                yield f"the {scaler['kind']} scales something else"
            if scaler["kind"] == "ScaledObject":
                yield from self.triggered(scaler["spec"]["triggers"])

    def triggered(self, triggers):
        namespace, lanes = self.setting("broker", "namespace"), self.settings().get("lanes", {})
        triggers = {trigger["metadata"]["queueName"]: trigger["metadata"] for trigger in triggers}
        queues = {f"{namespace}.{name}" for name in ("jobs", "tickets", *(f"jobs.{lane}" for lane in lanes if lane != "default"))}
        if set(triggers) != queues:
            yield f"the ScaledObject looks at {sorted(triggers)}, and the queues are {sorted(queues)}"
            return
        tickets = triggers[f"{namespace}.tickets"]
        if (tickets["protocol"], tickets["excludeUnacknowledged"]) != ("http", "false"):
            yield "open tickets are unacknowledged, and not counted"
        most = self.setting("worker", "max_in_flight")
        if int(tickets["value"]) >= most:
            yield f"the target for open tickets, {tickets['value']}, is not below worker.max_in_flight, {most}"


def compose_faults(compose, drain, root):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            # Docker makes a folder of what is not there, and the program that wants a file
            # complains about that.
            if source.startswith("./") and not (root / source).exists():
                yield f"{name}: {source} is mounted, and is not there"
        if "mem_limit" not in service:
            yield f"{name}: no mem_limit"
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: port {port} is not bound to loopback"
    yield from outlasts("worker: stop_grace_period", compose["services"]["worker"]["stop_grace_period"], drain)


def grafana_faults(sources, dashboard):
    """A dashboard names its source of data by the uid that it is provisioned with, or asks."""
    known = {source["uid"] for source in sources["datasources"]} | {"grafana", "-- Grafana --"}
    named = set(uids(dashboard))
    yield from (f"no source of data has the uid {uid!r}" for uid in sorted(named - known) if not uid.startswith("$"))


def uids(part):
    if isinstance(part, dict):
        source = part.get("datasource")
        if isinstance(source, dict) and "uid" in source:
            yield str(source["uid"])
        for value in part.values():
            yield from uids(value)
    elif isinstance(part, list):
        for value in part:
            yield from uids(value)


def unit_faults(unit, drain):
    stop = re.findall(r"^TimeoutStopSec=(.+)$", unit, re.MULTILINE)
    yield from outlasts("TimeoutStopSec", *stop, drain)
    prevented = re.findall(r"^RestartPreventExitStatus=(.+)$", unit, re.MULTILINE)
    if not any("2" in line.split() for line in prevented):
        yield "exit code 2, settings that cannot be used, is not kept from being restarted"
