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
class LineStyle:
    """How a line is drawn where the order of the lines does not say it."""

    color: int
    """Index in COLORS, taken modulo their number."""
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A point of a line that stands out, with a few words beside it."""

    x: float
    y: float
    text: str = ""
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
    styles: Mapping[str, LineStyle] | None = None,
    marks: Mapping[str, Sequence[Mark]] | None = None,
) -> Path | None:
    """Write one chart; a line and its markers per entry of `series`, a legend at the right.

    `styles` and `marks` are of the lines of the same name; a chart with marks has no other markers.

    Points with a coordinate that is not finite, or not positive on a logarithmic axis, interrupt their line. Returns
    the path, or None where nothing can be drawn (no file is written).
    """

    def drawn(point: tuple[float, float]) -> bool:
        finite = all(math.isfinite(value) for value in point)
        return finite and (not log_x or point[0] > 0) and (not log_y or point[1] > 0)

    points = [point for line in series.values() for point in line if drawn(point)]
    if not points:
        return None
    x = _Axis.over([point[0] for point in points], LEFT, WIDTH - RIGHT, log_x)
    y = _Axis.over([point[1] for point in points], HEIGHT - BOTTOM, TOP, log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text((LEFT + WIDTH - RIGHT) / 2, 20, title, size=13),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label),
        f'<g transform="rotate(-90 14 {HEIGHT / 2:.0f})">{_text(14, HEIGHT / 2, y_label)}</g>',
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
        style = (styles or {}).get(label, LineStyle(index, index >= len(COLORS)))
        color, dashes = COLORS[style.color % len(COLORS)], (' stroke-dasharray="5 3"' if style.dashed else "")
        command, path_data = "M", []
        for point in line:
            if not drawn(point):
                command = "M"
                continue
            at = x.place(point[0]), y.place(point[1])
            path_data.append(f"{command}{at[0]:.1f} {at[1]:.1f}")
            command = "L"
            if len(line) <= 40 and marks is None:
                parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.5" fill="{color}"/>')
        parts.append(f'<path d="{"".join(path_data)}" fill="none" stroke="{color}" stroke-width="1.6"{dashes}/>')
        for mark in (marks or {}).get(label, ()):
            if drawn((mark.x, mark.y)):
                parts += _drawn_mark(mark, x.place(mark.x), y.place(mark.y), color)
        row = TOP + 14 * index + 8
        parts.append(f'<path d="M{WIDTH - RIGHT + 10} {row}h16" stroke="{color}" stroke-width="2"{dashes}/>')
        parts.append(_text(WIDTH - RIGHT + 30, row + 4, label, anchor="start", size=10))
    parts.append("</svg>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))
    return path


def _drawn_mark(mark: Mark, x: float, y: float, color: str) -> list[str]:
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"' if mark.shape == "ring" else None
    shape = shape or f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"'
    fill = "white" if mark.shape == "ring" else color
    return [f'{shape} fill="{fill}" stroke="{color}" stroke-width="1.4"/>', _text(x, y - 7, mark.text, size=9)]


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
