# SPDX-License-Identifier: Apache-2.0
"""A protocol over many scenes and rows, whose figures are on disk as soon as they are measured."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...data import SceneCollection
from ...training.settings import differences
from ..metrics import ImageMetrics
from .measure import load_scene_views, measure
from .results_file import ResultsFile, mean
from .rows import Row
from .settings import PosedProtocol
from .strips import StripFolder
from .tables import RowFigures, row_figures
from .views import ProtocolPlan, ProtocolScene

logger = logging.getLogger("ns_diff3r")

Progress = Callable[[str], None]


class ProtocolRun:
    """One output folder: figures.csv, settings.json, views.json, pictures.

    Attributes:
        notes: what the reader must know: scenes that failed.
    """

    def __init__(
        self,
        collection: SceneCollection,
        plan: ProtocolPlan,
        protocol: PosedProtocol,
        metrics: ImageMetrics,
        output: Path,
        about: Mapping[str, Any],
        num_pictures: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        """Open or continue a run.

        Args:
            collection: the data.
            plan: scenes and their views.
            protocol: what is done with them.
            metrics: what is measured.
            output: folder; made if it is missing.
            about: plain values that the figures depend on. A run in the folder that differs in them is not continued.
            num_pictures: scenes, the first, of which pictures are kept.
            device: where rows are measured.

        Raises:
            ValueError: the folder holds figures that were measured with other settings, or is none of this command.
        """
        self.collection, self.plan, self.protocol, self.metrics = collection, plan, protocol, metrics
        self.device = torch.device(device)
        self.output, self.notes = output, []
        output.mkdir(parents=True, exist_ok=True)
        self._settings = self._continued(json.loads(json.dumps(about)))
        self.results = ResultsFile(output / "figures.csv")
        self.strips = StripFolder(output / "pictures")
        self._shown = {scene.name for scene in plan.scenes[:num_pictures]}
        _write_json(output / "views.json", plan.to_index())

    def pending(self, row: str) -> list[ProtocolScene]:
        """Scenes that have not been measured for a row."""
        return [s for s in self.plan.scenes if not self.results.is_complete(row, s.name, s.targets)]

    def register(self, row: Row) -> None:
        """Say in the folder what a row is.

        Raises:
            ValueError: the folder has figures of another row of this name.
        """
        identity = json.loads(json.dumps(row.identity()))
        known = self._settings["rows"].get(row.name)
        if known is not None and known != identity:
            changed = ", ".join(differences(known, identity))
            raise ValueError(
                f"{self.output} holds figures of another row {row.name!r} (other {changed}); give it another name, or "
                "choose another --output"
            )
        self._settings["rows"][row.name] = identity
        _write_json(self.output / "settings.json", self._settings)

    def measure(self, row: Row, progress: Progress | None = None) -> RowFigures:
        """Measure what is pending of a row, and average.

        Scenes that fail are left out with a warning, and tried again by the next run.

        Args:
            row: to measure.
            progress: called with a line of text after each scene.

        Raises:
            ValueError: the folder has figures of another row of this name.
        """
        self.register(row)
        for scene in self.pending(row.name):
            try:
                line = self._measure(row, scene)
            except (ValueError, OSError) as error:
                line = f"{row.name}, {scene.name}: not measured: {error}"
                logger.warning("%s", line)
                self.notes.append(line)
            if progress is not None:
                progress(line)
        return row_figures(self.results, row.name, self.plan.scenes)

    def write_strips(self, rows: list[str]) -> list[Path]:
        """Picture strips of the first scenes, with those of the rows that were measured."""
        written = [self.strips.write(s.name, rows) for s in self.plan.scenes if s.name in self._shown]
        return [path for path in written if path is not None]

    def _measure(self, row: Row, scene: ProtocolScene) -> str:
        batch = load_scene_views(self.collection, scene, self.protocol).to(self.device)
        result = measure(row, batch, self.protocol, self.metrics)
        if scene.name in self._shown:
            self.strips.keep_scene(batch)
            self.strips.keep_row(row.name, scene.name, result)
        self.results.add(row.name, scene.name, result.figures)
        lines = self.results.lines(row.name, scene.name, scene.targets)
        before, after = (mean(lines, f"psnr_{when}") or float("nan") for when in ("before", "after"))
        return f"{row.name}, {scene.name}: PSNR {before:.2f} → {after:.2f}"

    def _continued(self, about: dict[str, Any]) -> dict[str, Any]:
        """The stored settings with their rows, or new ones."""
        path = self.output / "settings.json"
        if not path.is_file():
            settings = {"about": about, "rows": {}}
            _write_json(path, settings)
            return settings
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            changed, rows = differences(settings["about"], about), settings["rows"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: broken ({error}); choose another --output") from error
        if changed and rows:
            raise ValueError(
                f"{self.output} holds figures that were measured with other settings ({', '.join(changed)}); choose "
                "another --output, or give the same settings"
            )
        return {"about": about, "rows": rows}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
