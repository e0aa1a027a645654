"""Every object of an overlay against the schema that its makers publish."""

import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor
from pydantic import ValidationError

# The oldest release that has all that is used here (unhealthyPodEvictionPolicy), and the newest
# whose schemas are known.
OLDEST = "1.27"
RELEASES = [OLDEST, kubernetes_validate.latest_version()]

CUSTOM = {
    model.__name__: model for model in (ScaledObject, TriggerAuthentication, PodMonitor, ServiceMonitor, PrometheusRule)
}


def faults(thing):
    """What its schema says against an object."""
    model = CUSTOM.get(thing["kind"])
    return by_model(thing, model) if model else by_releases(thing)


def by_releases(thing):
    for release in RELEASES:
        try:
            kubernetes_validate.validate(thing, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {release}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield error.message


def by_model(thing, model):
    try:
        read = model.model_validate(thing)
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return
    # The models pass over fields that they do not know: those are missing when it is written again.
    yield from lost(thing, read.model_dump(mode="json", by_alias=True, exclude_none=True), "")


def lost(given, kept, path):
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: no such field"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (one, other) in enumerate(zip(given, kept)):
            yield from lost(one, other, f"{path}[{index}]")
    elif given != kept:
        yield f"{path}: {given!r} is read as {kept!r}"
