"""dashboard.json as Grafana reads it: its panels, and their queries with the variables filled in."""

import json
import re
from pathlib import Path

FILE = Path(__file__).parent / "dashboard.json"
COLUMNS = 24
VARIABLE = re.compile(r"\$\{?(\w+)\}?")


def loaded():
    return json.loads(FILE.read_text())


def panels(board):
    """Without rows' headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def filled(text, values):
    """`$name` and `${name}` replaced; a variable that nobody sets is a fault."""
    def value(found):
        if found[1] not in values:
            raise ValueError(f"no variable ${found[1]}: {text}")
        return values[found[1]]
    return VARIABLE.sub(value, text)


def queries(board, values):
    """(panel, target, PromQL) of every panel."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel, target, filled(target["expr"], values)


def faults(board):
    """Of its layout: what lies over another, or beside the page; ids and reference ids that come twice."""
    seen = {}
    for panel in board["panels"]:
        if panel["id"] in seen.values():
            yield f"id {panel['id']} comes twice"
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"{panel['title']}: wider than the page"
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            if seen.setdefault(cell, panel["id"]) != panel["id"]:
                yield f"{panel['title']}: lies over panel {seen[cell]}"
                break
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{panel['title']}: no description"
        refs = [target["refId"] for target in panel["targets"]]
        if len(refs) != len(set(refs)):
            yield f"{panel['title']}: the same refId twice"
        for target in panel["targets"]:
            if "legendFormat" not in target:
                yield f"{panel['title']} {target['refId']}: no legend"
