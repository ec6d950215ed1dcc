# SPDX-License-Identifier: Apache-2.0
"""The figures of a run as a CSV that grows scene by scene, so that a run that was killed goes on where it was."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = ("psnr", "ssim", "lpips")
KEYS = ("row", "scene", "image")
COLUMNS = (
    *KEYS,
    *(f"{metric}_{when}" for metric in METRICS for when in ("before", "after")),
    "gaussians",
    "predict_seconds",
    "tto_seconds",
    "tto_status",
    "alignment_degrees",
    "pose_status",
    "pose_loss_before",
    "pose_loss_after",
)
"""One line per row, scene and target image. Metrics that were left out are empty, and so is
what is about predicted poses where poses are given."""


class ResultsFile:
    """Lines of `COLUMNS`, on disk as soon as they are added.

    Raises:
        ValueError: the file has other columns.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str, str], dict[int, dict[str, str]]] = {}
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a kill may have cut off the last line
            found = list(csv.DictReader(io.StringIO(whole)))
            if whole and next(csv.reader(io.StringIO(whole))) != list(COLUMNS):
                raise ValueError(f"{path}: not the CSV of this command; its columns should be {', '.join(COLUMNS)}")
            for line in found:
                self._lines.setdefault((line["row"], line["scene"]), {})[int(line["image"])] = line
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        self._write(temporary, "w", [line for images in self._lines.values() for line in images.values()])
        os.replace(temporary, path)

    def is_complete(self, row: str, scene: str, images: Iterable[int]) -> bool:
        """Whether every image of a scene has been measured for a row."""
        return set(images) <= set(self._lines.get((row, scene), {}))

    def lines(self, row: str, scene: str, images: Iterable[int]) -> list[dict[str, str]]:
        """What has been measured of these images."""
        known = self._lines.get((row, scene), {})
        return [known[image] for image in images if image in known]

    def add(self, row: str, scene: str, figures: Mapping[int, Mapping[str, Any]]) -> None:
        """Append the figures of a scene's images; of those that a kill left half written, what is missing."""
        known = self._lines.setdefault((row, scene), {})
        fresh = []
        for image, values in figures.items():
            line = {name: _text(values.get(name)) for name in COLUMNS}
            line |= {"row": row, "scene": scene, "image": str(image)}
            if image not in known:
                fresh.append(line)
                known[image] = line
        self._write(self.path, "a", fresh)

    @staticmethod
    def _write(path: Path, mode: str, lines: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if mode == "w":
            writer.writeheader()
        writer.writerows(lines)
        with path.open(mode, encoding="utf-8", newline="") as stream:
            stream.write(text.getvalue())
            stream.flush()
            os.fsync(stream.fileno())


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def mean(lines: Sequence[Mapping[str, str]], name: str) -> float | None:
    """Mean of a column over lines that have it; None if any lacks it, or there is none."""
    values = [line[name] for line in lines]
    return sum(map(float, values)) / len(values) if values and all(values) else None
