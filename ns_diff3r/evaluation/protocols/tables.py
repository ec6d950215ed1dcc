# SPDX-License-Identifier: Apache-2.0
"""Measured rows beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .published import PublishedRow
from .results_file import METRICS, ResultsFile, mean
from .views import ProtocolScene

DIGITS = {"psnr": 3, "ssim": 3, "lpips": 3}


@dataclass(frozen=True)
class RowFigures:
    """A measured row.

    Attributes:
        name: of the row.
        scenes: that were measured.
        images: that were measured.
        figures: metric → (before, after), means over all images; metrics that were left out are missing.
    """

    name: str
    scenes: int
    images: int
    figures: Mapping[str, tuple[float, float]]


def row_figures(results: ResultsFile, name: str, scenes: Sequence[ProtocolScene]) -> RowFigures:
    """Means of a row over the images of those scenes that are complete."""
    complete = [scene for scene in scenes if results.is_complete(name, scene.name, scene.targets)]
    lines = [line for scene in complete for line in results.lines(name, scene.name, scene.targets)]
    figures = {}
    for metric in METRICS:
        before, after = (mean(lines, f"{metric}_{when}") for when in ("before", "after"))
        if before is not None and after is not None:
            figures[metric] = (before, after)
    return RowFigures(name, len(complete), len(lines), figures)


def comparison(measured: Sequence[RowFigures], published: Sequence[PublishedRow]) -> list[dict[str, Any]]:
    """Rows for a table: the paper's in its order, measured or not, then those that it does not have.

    Columns: what was measured, before → after of every metric, and (where it has rows) the same as the paper has it.
    """
    by_name = {row.name: row for row in measured}
    metrics = [m for m in METRICS if any(m in row.figures for row in (*measured, *published))]
    rows = []
    for entry in published:
        row = by_name.pop(entry.key, None)
        state = _state(row) if row is not None else f"not run: {entry.why_not_run}"
        rows.append(_table_row(f"{entry.key} ({entry.label})", state, row, entry.figures, metrics))
    paper = {} if published else None
    rows += [_table_row(row.name, _state(row), row, paper, metrics) for row in by_name.values()]
    return rows


def _state(row: RowFigures) -> str:
    if not row.images:
        return "not run: no scene could be measured"
    return ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in ((row.scenes, "scene"), (row.images, "image")))


def _table_row(
    name: str,
    state: str,
    row: RowFigures | None,
    paper: Mapping[str, tuple[float, float]] | None,
    metrics: Sequence[str],
) -> dict[str, Any]:
    cells: dict[str, Any] = {"row": name, "measured": state}
    for metric in metrics:
        cells[metric.upper()] = _pair(None if row is None else row.figures.get(metric), metric)
        if paper is not None:
            cells[f"{metric.upper()} (paper)"] = _pair(paper.get(metric), metric)
    return cells


def _pair(values: tuple[float, float] | None, metric: str) -> str:
    if values is None:
        return ""
    return " → ".join(f"{value:.{DIGITS[metric]}f}" for value in values)


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of equal keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
