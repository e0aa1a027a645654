"""Draws dashboard.json over a running Prometheus, as a web page: our own drawing of its queries and layout, not Grafana's.

Usage: picture.py PROMETHEUS_URL PAGE.html [--job LANE] [--minutes N] [--interval SECONDS]

Every query is asked over the range as Grafana asks it: variables filled in, its step and $__rate_interval by the panel's width and the scrape
interval. Firing alerts are dashed lines. Panels without data say so, and are counted; a query that fails ends it.
"""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path

import board as boards
import draw

# As Grafana lays it out: a row of its grid is 30 pixels high, with 8 between.
COLUMN, ROW, GAP, PATIENCE_SECONDS = 80, 30, 8, 30
# The steps that Grafana rounds to, in seconds.
STEPS = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600]
LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class Prometheus:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def asked(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=PATIENCE_SECONDS) as reply:
            return json.loads(reply.read())["data"]

    def instant(self, query, at):
        return [(found["metric"], float(found["value"][1])) for found in self.asked("query", query=query, time=at)["result"]]

    def span(self, query, begin, end, step):
        found = self.asked("query_range", query=query, start=begin, end=end, step=step)["result"]
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"] if math.isfinite(float(value))]) for one in found]


class Page:
    def __init__(self, prometheus, board, told):
        self.prometheus, self.board, self.told = prometheus, board, told
        self.end = time.time()
        self.begin = self.end - 60 * told.minutes
        self.empty = []

    def values(self, width):
        """Variables, and the step, for a panel so wide."""
        wanted = max((self.end - self.begin) / width, self.told.interval)
        step = next(step for step in STEPS if step >= wanted * 0.999)
        rate = max(step + self.told.interval, 4 * self.told.interval)
        return step, {"job": self.told.job, "instance": ".*", "__interval": f"{step}s", "__rate_interval": f"{rate}s"}

    def series(self, panel, width, ask):
        step, values = self.values(width)
        for target in panel["targets"]:
            for labels, found in ask(boards.filled(target["expr"], values), step):
                yield LABEL.sub(lambda name: labels.get(name[1], ""), target["legendFormat"]) or "Value", found

    def drawn(self, panel):
        place = panel["gridPos"]
        width, height = place["w"] * COLUMN - GAP, place["h"] * (ROW + GAP) - GAP
        if panel["type"] == "row":
            return f'<div class="row" style="{self.where(place)}">{panel["title"]}</div>'
        if panel["type"] == "stat":
            values = list(self.series(panel, width, lambda query, _: self.prometheus.instant(query, self.end)))
            picture, found = draw.stat(panel, width, height, values), values
        elif panel["type"] == "timeseries":
            step, _ = self.values(width)
            # At multiples of the step, as Grafana aligns them.
            begin, end = self.begin // step * step, self.end // step * step
            lines = list(self.series(panel, width, lambda query, step: self.prometheus.span(query, begin, end, step)))
            picture = draw.Graph(panel, width, height, (begin, end, step), lines, self.marks()).drawn()
            found = any(points for _, points in lines)
        else:
            raise ValueError(f"{panel['title']}: no way to draw a panel of type {panel['type']}")
        if not found:
            self.empty.append(panel["title"])
        return f'<div style="{self.where(place)}">{picture}</div>'

    def marks(self):
        """When alerts began to fire."""
        (annotation,) = [one for one in self.board["annotations"]["list"] if one.get("expr")]
        step, values = self.values(COLUMN * boards.COLUMNS)
        for _, points in self.prometheus.span(boards.filled(annotation["expr"], values), self.begin, self.end, step):
            yield points[0][0]

    def where(self, place):
        return f"left:{place['x'] * COLUMN + GAP}px;top:{place['y'] * (ROW + GAP) + 40}px"

    def html(self):
        panels = "\n".join(self.drawn(panel) for panel in self.board["panels"])
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self.board["panels"]) * (ROW + GAP) + 50
        span = " to ".join(time.strftime("%H:%M:%S", time.gmtime(at)) for at in (self.begin, self.end))
        style = ("body{margin:0;background:#111217;color:#d8d9da;font-family:DejaVu Sans,sans-serif}div{position:absolute}"
                 ".row{font-size:14px;font-weight:bold;padding-top:6px}")
        title = f"{self.board['title']} / {self.told.job}, {span} UTC: the queries and the layout of dashboard.json, drawn by picture.py, not by Grafana"
        size = f"width:{COLUMN * boards.COLUMNS + GAP}px;height:{height}px"
        return height, (f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style><div style="{size}">'
                        f'<div style="left:{GAP}px;top:12px;font-size:13px;white-space:nowrap">{title}</div>{panels}</div>\n')


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("prometheus", metavar="PROMETHEUS_URL")
    arguments.add_argument("page", type=Path, metavar="PAGE.html")
    arguments.add_argument("--job", default="captcha-worker")
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument("--interval", type=int, default=5, help="of scraping, in seconds")
    told = arguments.parse_args()
    page = Page(Prometheus(told.prometheus), boards.loaded(), told)
    height, html = page.html()
    told.page.write_text(html)
    drawn = len(boards.panels(page.board))
    print(f"{drawn} panels, {len(page.empty)} without data{': ' if page.empty else ''}{', '.join(page.empty)}")
    print(f"{COLUMN * boards.COLUMNS + GAP},{height}")


if __name__ == "__main__":
    main()
