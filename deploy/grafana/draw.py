"""Panels as SVG: lines over time, and single values."""

import html
import math
from time import gmtime, strftime

PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a", "#447ebc", "#c15c17"]
NAMED = {"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "text": "#d8d9da"}
BACKGROUND, GRID, DIM, TEXT = "#181b1f", "#2c3235", "#9fa7b3", "#d8d9da"
# What a character of the legend takes, in pixels.
CHARACTER = 6.3
SECONDS = [(31_557_600, "years"), (86_400, "days"), (3600, "hours"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")]


def shown(value, unit, decimals=None):
    """A number as its unit has it."""
    if value is None or math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        size, name = next(((size, name) for size, name in SECONDS if abs(value) >= size), (1, "s"))
        return f"{rounded(value / size, decimals)} {name}"
    after = " req/s" if unit == "reqps" else ""
    for size, letter in [(1e9, "G"), (1e6, "M"), (1e4, "K")]:
        if unit != "none" and abs(value) >= size:
            return f"{rounded(value / size, decimals)} {letter}{after}"
    return f"{rounded(value, decimals)}{after}"


def rounded(value, decimals):
    if decimals is None:
        decimals = 0 if value == round(value) else 2
    return f"{value:.{decimals}f}"


def colour_of(panel, name, position):
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": name}:
            for change in override["properties"]:
                if change["id"] == "color":
                    return NAMED[change["value"]["fixedColor"]]
    return PALETTE[position % len(PALETTE)] if position is not None else None


def by_threshold(panel, value):
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return NAMED[[step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]]


def text(x, y, what, size=11, fill=DIM, anchor="start", weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{html.escape(str(what))}</text>'


def frame(panel, width, height, inside):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="DejaVu Sans, sans-serif">'
            f'<rect width="{width}" height="{height}" rx="2" fill="{BACKGROUND}" stroke="{GRID}"/>{text(8, 18, panel["title"], 12, TEXT, weight="bold")}'
            f"{''.join(inside)}</svg>")


def nothing(panel, width, height):
    return frame(panel, width, height, [text(width / 2, height / 2 + 8, "no data", 13, DIM, "middle")])


def stat(panel, width, height, values):
    """`values`: (name, number) of each series; one beside the other."""
    if not values:
        return nothing(panel, width, height)
    defaults, options, inside, part = panel["fieldConfig"]["defaults"], panel["options"], [], (width - 8) / len(values)
    for place, (name, value) in enumerate(values):
        colour = colour_of(panel, name, None) or by_threshold(panel, value)
        filled = options["colorMode"] == "background"
        x, told = 4 + place * part, shown(value, defaults["unit"], defaults.get("decimals"))
        if filled:
            inside.append(f'<rect x="{x + 1}" y="26" width="{part - 2}" height="{height - 30}" rx="3" fill="{colour}"/>')
        fill, middle, line = "#111217" if filled else colour, x + part / 2, 26 + (height - 30) / 2
        if options["textMode"] == "value_and_name":
            inside += [text(middle, line - 8, name, 12, "#111217" if filled else DIM, "middle"), text(middle, line + 22, told, 24, fill, "middle", "bold")]
        else:
            what = name if options["textMode"] == "name" else told
            inside.append(text(middle, line + 9, what, min(26, 1.5 * part / max(len(what), 1)), fill, "middle", "bold"))
    return frame(panel, width, height, inside)


def ticks(low, high, count=4):
    """Round numbers from low to high."""
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9) * step
    return [first + step * number for number in range(int(round((high - first) / step + 0.499)) + 1)]


class Graph:
    """Lines over the span from `begin` to `end`; a gap where there is no sample."""

    def __init__(self, panel, width, height, span, series, marks):
        self.panel, self.width, self.height, self.series, self.marks = panel, width, height, series, marks
        self.begin, self.end, self.step = span
        self.defaults = panel["fieldConfig"]["defaults"]
        self.custom = self.defaults["custom"]
        self.rows = self.legend_rows()
        self.left, self.top, self.right, self.bottom = 56, 28, width - 10, height - 24 - 15 * len(self.rows)

    def legend_rows(self):
        rows, room = [[]], 0
        for place, (name, _) in enumerate(self.series):
            takes = 22 + CHARACTER * len(name)
            if rows[-1] and room + takes > self.width - 16:
                if len(rows) == 3:
                    rows[-1].append((None, f"… {len(self.series) - place} more"))
                    break
                rows.append([])
                room = 0
            rows[-1].append((place, name))
            room += takes
        return rows

    def x(self, at):
        return self.left + (self.right - self.left) * (at - self.begin) / (self.end - self.begin)

    def y(self, value):
        return self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)

    def stacked(self):
        if self.custom["stacking"]["mode"] != "normal":
            return [(points, None) for _, points in self.series]
        under, layers = {}, []
        for _, points in self.series:
            over = {at: value + under.get(at, 0) for at, value in points}
            layers.append((sorted(over.items()), dict(under)))
            under.update(over)
        return layers

    def drawn(self):
        layers = self.stacked()
        values = [value for points, _ in layers for _, value in points]
        if not values:
            return nothing(self.panel, self.width, self.height)
        low, high = min(values), max(values)
        low = self.defaults["min"] if self.defaults.get("min") is not None else low
        high = self.defaults["max"] if self.defaults.get("max") is not None else high
        if high <= low:
            high = low + 1
        scale = ticks(low, high)
        self.low, self.high = min(low, scale[0]), self.defaults.get("max") or scale[-1]
        inside = [*self.axes(scale), *self.thresholds()]
        for place, (points, under) in reversed(list(enumerate(layers))):
            inside += self.line(place, points, under)
        inside += [f'<line x1="{self.x(at):.1f}" x2="{self.x(at):.1f}" y1="{self.top}" y2="{self.bottom}" stroke="{NAMED["red"]}" stroke-dasharray="2 3"/>'
                   for at in self.marks if self.begin <= at <= self.end]
        return frame(self.panel, self.width, self.height, [*inside, *self.legend()])

    def axes(self, scale):
        for value in scale:
            if value <= self.high * 1.0001:
                yield f'<line x1="{self.left}" x2="{self.right}" y1="{self.y(value):.1f}" y2="{self.y(value):.1f}" stroke="{GRID}"/>'
                yield text(self.left - 5, self.y(value) + 4, shown(value, self.defaults["unit"]), 10, anchor="end")
        # Whole minutes, as many as there is room for.
        room = max(1, (self.right - self.left) // 60)
        every = next(minutes for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 360, 1440) if (self.end - self.begin) / 60 / minutes <= room) * 60
        moment = -(-self.begin // every) * every
        while moment <= self.end:
            yield text(self.x(moment), self.bottom + 14, strftime("%H:%M", gmtime(moment)), 10, anchor="middle")
            moment += every

    def thresholds(self):
        if self.custom.get("thresholdsStyle", {}).get("mode") != "dashed":
            return
        for step in self.defaults["thresholds"]["steps"]:
            if step["value"] is not None and self.low < step["value"] < self.high:
                y = self.y(step["value"])
                yield f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{NAMED[step["color"]]}" stroke-dasharray="6 4"/>'

    def line(self, place, points, under):
        colour = colour_of(self.panel, self.series[place][0], place)
        for run in runs(points, self.step):
            path = " ".join(f"{self.x(at):.1f},{self.y(min(value, self.high)):.1f}" for at, value in run)
            foot = [(at, (under or {}).get(at, self.low)) for at, _ in reversed(run)]
            area = " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in foot)
            if self.custom["fillOpacity"]:
                yield f'<polygon points="{path} {area}" fill="{colour}" fill-opacity="{self.custom["fillOpacity"] / 100}"/>'
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>'

    def legend(self):
        for number, row in enumerate(self.rows):
            x, y = 8, self.height - 8 - 15 * (len(self.rows) - 1 - number)
            for place, name in row:
                if place is not None:
                    yield f'<rect x="{x}" y="{y - 5}" width="12" height="3" fill="{colour_of(self.panel, name, place)}"/>'
                yield text(x + 16, y, name, 10.5)
                x += 22 + CHARACTER * len(name)


def runs(points, step):
    """Parts without a gap."""
    run = []
    for at, value in points:
        if run and at - run[-1][0] > 1.5 * step:
            yield run
            run = []
        run.append((at, value))
    if run:
        yield run
