# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG files, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 36, 46
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")


@dataclass(frozen=True)
class Mark:
    """A point of a line that stands out."""

    x: float
    y: float
    shape: Literal["ring", "square"] = "ring"


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool

    @staticmethod
    def over(values: list[float], begin: float, end: float, logarithmic: bool) -> _Axis:
        low, high = min(values), max(values)
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
        return _Axis(low - margin, high + margin, begin, end, logarithmic)

    def place(self, value: float) -> float:
        position = math.log10(value) if self.logarithmic else value
        return self.begin + (position - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.ceil(self.low), math.floor(self.high) + 1)
            fine = [m * 10.0**d for d in range(math.floor(self.low), math.ceil(self.high)) for m in (1, 2, 5)]
            inside = [v for v in fine if self.low <= math.log10(v) <= self.high]
            return [10.0**d for d in decades] if len(decades) >= 3 else inside
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def line_chart(
    path: Path,
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
) -> Path | None:
    """Write one chart; a line and its markers per entry of `series`, a legend at the right.

    Points with a coordinate that is not finite, or not positive on a logarithmic axis, interrupt their line. Returns
    the path, or None where nothing can be drawn (no file is written).
    """
    chart = Chart(series, title, x_label, y_label, log_x, log_y)
    return stacked_charts(path, [chart])


@dataclass(frozen=True)
class Chart:
    """One chart of several in a file; see `line_chart`."""

    series: Mapping[str, Points]
    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    marks: Mapping[str, Sequence[Mark]] | None = None
    """Of the lines of the same name; a chart with marks (also {}) has no other markers."""


def stacked_charts(path: Path, charts: Sequence[Chart]) -> Path | None:
    """Write charts below one another; those in which nothing can be drawn are left out. As `line_chart`."""
    right = max([RIGHT, *(_legend_width(chart) for chart in charts)])
    drawn = [parts for chart in charts if (parts := _parts(chart))]
    if not drawn:
        return None
    width = WIDTH - RIGHT + right
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT * len(drawn)}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{HEIGHT * len(drawn)}" fill="white"/>',
    ]
    for number, parts in enumerate(drawn):
        lines += [f'<g transform="translate(0 {HEIGHT * number})">', *parts, "</g>"] if number else parts
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "</svg>\n"]))
    return path


def _legend_width(chart: Chart) -> int:
    return 40 + round(5.6 * max((len(label) for label in chart.series), default=0))


def _parts(chart: Chart) -> list[str]:
    """The elements of one chart; [] where nothing can be drawn."""
    series, log_x, log_y = chart.series, chart.log_x, chart.log_y

    def drawn(point: tuple[float, float]) -> bool:
        finite = all(math.isfinite(value) for value in point)
        return finite and (not log_x or point[0] > 0) and (not log_y or point[1] > 0)

    points = [point for line in series.values() for point in line if drawn(point)]
    if not points:
        return []
    x = _Axis.over([point[0] for point in points], LEFT, WIDTH - RIGHT, log_x)
    y = _Axis.over([point[1] for point in points], HEIGHT - BOTTOM, TOP, log_y)
    parts = [
        _text((LEFT + WIDTH - RIGHT) / 2, 20, chart.title, size=13),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, chart.x_label),
        f'<g transform="rotate(-90 14 {HEIGHT / 2:.0f})">{_text(14, HEIGHT / 2, chart.y_label)}</g>',
    ]
    for tick in x.ticks():
        at = x.place(tick)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(_text(at, HEIGHT - BOTTOM + 16, f"{tick:g}"))
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, at + 4, f"{tick:g}", anchor="end"))
    for index, (label, line) in enumerate(series.items()):
        color, dashes = COLORS[index % len(COLORS)], (' stroke-dasharray="5 3"' if index >= len(COLORS) else "")
        command, path_data = "M", []
        for point in line:
            if not drawn(point):
                command = "M"
                continue
            at = x.place(point[0]), y.place(point[1])
            path_data.append(f"{command}{at[0]:.1f} {at[1]:.1f}")
            command = "L"
            if len(line) <= 40 and chart.marks is None:
                parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.5" fill="{color}"/>')
        parts.append(f'<path d="{"".join(path_data)}" fill="none" stroke="{color}" stroke-width="1.6"{dashes}/>')
        for mark in (chart.marks or {}).get(label, ()):
            if drawn((mark.x, mark.y)):
                parts.append(_drawn_mark(mark, x.place(mark.x), y.place(mark.y), color))
        row = TOP + 14 * index + 8
        parts.append(f'<path d="M{WIDTH - RIGHT + 10} {row}h16" stroke="{color}" stroke-width="2"{dashes}/>')
        parts.append(_text(WIDTH - RIGHT + 30, row + 4, label, anchor="start", size=10))
    return parts


def _drawn_mark(mark: Mark, x: float, y: float, color: str) -> str:
    if mark.shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="{color}" stroke-width="1.4"/>'
    return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
