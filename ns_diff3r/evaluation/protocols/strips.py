# SPDX-License-Identifier: Apache-2.0
"""Picture strips: context and truth of a scene, and of every row what it drew before and after, with error maps.

Each row's pictures are kept as files of their own, so that a strip has all rows although they were measured one after
the other, in several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...data.batches import SceneBatch
from ..reports import save_pictures
from .measure import Measurement

SMALLEST_HEIGHT = 128
"""Of a picture in a strip, in pixels; smaller ones are enlarged in whole steps."""
LABEL_HEIGHT = 14
LARGEST_ERROR = 0.25
"""Mean absolute difference over the channels that an error map shows brightest."""


class StripFolder:
    """Pictures of the first target of every scene."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep_scene(self, batch: SceneBatch) -> None:
        """Remember context and truth."""
        _save(self._part(batch.name, "context"), torch.cat(list(batch.context.images), dim=1))
        _save(self._part(batch.name, "truth"), batch.targets.images[0])

    def keep_row(self, row: str, scene: str, result: Measurement) -> None:
        """Remember what a row drew."""
        _save(self._part(scene, f"row {row}"), torch.cat([result.before[0], result.after[0]], dim=1))

    def write(self, scene: str, rows: Sequence[str]) -> Path | None:
        """The strip of a scene, of those rows that there are pictures of: one line with the context and the truth, then
        per row before, its error, after, its error. None without any."""
        parts = {row: self._part(scene, f"row {row}") for row in rows}
        parts = {row: path for row, path in parts.items() if path.is_file()}
        truth_file, context_file = self._part(scene, "truth"), self._part(scene, "context")
        if not parts or not truth_file.is_file() or not context_file.is_file():
            return None
        truth = _load(truth_file)
        context = _load(context_file).split(truth.shape[1], dim=1)
        lines: list[tuple[str, list[Tensor]]] = [(f"{scene}: context, truth", [*context, truth])]
        for row, path in parts.items():
            before, after = _load(path).split(truth.shape[1], dim=1)
            pictures = [before, error_map(before, truth), after, error_map(after, truth)]
            lines.append((f"{row}: before, error, after, error", pictures))
        factor = max(1, -(-SMALLEST_HEIGHT // truth.shape[0]))
        stacked: list[list[Tensor]] = []
        for text, pictures in lines:
            large = [image.repeat_interleave(factor, 0).repeat_interleave(factor, 1) for image in pictures]
            stacked += [[_label(text, sum(image.shape[1] for image in large))], large]
        path = self.folder / f"{_file_name(scene)}.png"
        save_pictures(path, stacked, max_rows=len(stacked))
        return path

    def _part(self, scene: str, name: str) -> Path:
        return self.folder / "parts" / _file_name(scene) / f"{_file_name(name)}.png"


def error_map(image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """Mean absolute difference, black through red and yellow to white at `LARGEST_ERROR`."""
    value = ((image - truth).abs().mean(-1, keepdim=True) / LARGEST_ERROR).clamp(0, 1)
    return torch.cat([(3 * value - offset).clamp(0, 1) for offset in (0.0, 1.0, 2.0)], dim=-1)


def _label(text: str, width: int) -> Float[Tensor, "H W 3"]:
    """Black on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    plain = text.encode("ascii", "replace").decode()  # all that the font of older Pillows has
    ImageDraw.Draw(image).text((2, 1), plain, fill="black")
    return torch.from_numpy(np.asarray(image) / np.float32(255))


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._- " else "_" for c in name)


def _save(path: Path, image: Float[Tensor, "H W 3"]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image.clamp(0, 1).cpu().numpy() * 255).astype(np.uint8)).save(path)


def _load(path: Path) -> Float[Tensor, "H W 3"]:
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")) / np.float32(255))
