# SPDX-License-Identifier: Apache-2.0
"""Evaluations as a table on the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .evaluate import BASELINES, Evaluation

MARGIN = 2
"""White pixels between images."""


def table_rows(evaluation: Evaluation, max_images: int = 24) -> list[dict[str, Any]]:
    """Rows for a table: every image where there are few, else every scene; the mean over all images last.

    Columns: PSNR of the baselines, then before, after and gain of every metric, seconds and number of Gaussians.
    """
    rows = []
    if len(evaluation.rows) <= max_images:
        for row in evaluation.rows:
            kind = "" if row["held_out"] else " (training)"
            rows.append(_table_row(f"{row['scene']} {row['image']}{kind}", row, evaluation.names))
    else:
        rows += [_table_row(scene, means, evaluation.names) for scene, means in evaluation.scene_means().items()]
    if evaluation.rows:
        rows.append(_table_row("mean of all images", evaluation.means, evaluation.names))
    return rows


def _table_row(name: str, figures: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    metrics = [name for name in names if name.endswith(("_before", "_after", "_gain"))]
    baselines = {"constant": figures[BASELINES[0]], "nearest": figures[BASELINES[1]]}
    return {
        "image": name,
        **{f"PSNR {key}": value for key, value in baselines.items()},
        **{title(key): figures[key] for key in metrics},
        "TTO s": figures["tto_seconds"],
        "Gaussians": round(figures["num_gaussians"]),
    }


def title(key: str) -> str:
    """Heading of a figure in a table: "PSNR before" of "psnr_before"."""
    metric, _, when = key.rpartition("_")
    return f"{metric.upper()} {when}"


def save_pictures(
    path: Path, rows: Sequence[Sequence[Float[Tensor, "H W 3"]]], min_height: int = 0, max_rows: int = 8
) -> None:
    """One picture: a row of images per entry, thin white lines between; small images are enlarged in whole steps.

    Args:
        path: file to write; its suffix chooses the format.
        rows: images in [0, 1]; those of a row have one size.
        min_height: pixels that an image has at least in the picture.
        max_rows: entries beyond are left out.
    """
    from PIL import Image

    strips = []
    for images in rows[:max_rows]:
        factor = max(1, -(-min_height // images[0].shape[0]))
        framed = [_framed(image.repeat_interleave(factor, 0).repeat_interleave(factor, 1)) for image in images]
        strips.append(torch.cat(framed, dim=1)[:, :-MARGIN])
    width = max(strip.shape[1] for strip in strips)
    padded = [torch.nn.functional.pad(s, (0, 0, 0, width - s.shape[1]), value=1.0) for s in strips]
    pixels = torch.cat(padded, dim=0)[:-MARGIN].clamp(0, 1)
    Image.fromarray(np.rint(pixels.cpu().numpy() * 255).astype(np.uint8)).save(path)


def _framed(image: Float[Tensor, "H W 3"]) -> Float[Tensor, "h w 3"]:
    return torch.nn.functional.pad(image, (0, 0, 0, MARGIN, 0, MARGIN), value=1.0)
