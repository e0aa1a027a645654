"""The dashboard against Grafana's own types, and its queries as rules, for promtool to parse."""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from schemas import lost

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grafana"))
import board as boards  # noqa: E402

# An annotation's query has fields of its data source's own, which the types leave open.
OPEN = (".annotations.list[0].titleFormat", ".annotations.list[0].step")
# For parsing alone.
VALUES = {"job": "captcha-worker", "instance": ".*", "datasource": "prometheus", "__rate_interval": "1m", "__interval": "1m", "__range": "1h"}


def faults(board):
    register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    yield from (fault for fault in lost(board, kept, "") if not fault.startswith(OPEN))
    yield from boards.faults(board)
    names = {variable["name"] for variable in board["templating"]["list"]}
    yield from (f"no value for ${name}" for name in sorted(names - set(VALUES)))


def rules(board):
    """A recording rule for each query: the only form in which promtool parses one without a server."""
    annotations = [boards.filled(one["expr"], VALUES) for one in board["annotations"]["list"] if "expr" in one]
    expressions = [expression for *_, expression in boards.queries(board, VALUES)] + annotations
    return {"groups": [{"name": "dashboard", "rules": [
        {"record": f"query:{number}", "expr": expression} for number, expression in enumerate(expressions)]}]}


if __name__ == "__main__":
    # JSON is YAML.
    print(json.dumps(rules(boards.loaded())))
