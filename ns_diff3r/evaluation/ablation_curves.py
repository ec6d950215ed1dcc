# SPDX-License-Identifier: Apache-2.0
"""Rows of the ablation along their optimisation: after equal steps, peak and last, and after equal seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .ablation import Ledger, Row, Setting


class ImageCurve(NamedTuple):
    """One image along one optimisation; points in the order of their steps."""

    scene: str
    seed: int
    seconds: tuple[float, ...]
    psnr: tuple[float, ...]


def image_curves(ledger: Ledger, row: Row, setting: Setting, steps: Sequence[int]) -> list[ImageCurve]:
    """Every image of the test scenes that was measured at all of `steps`, which ascend."""
    points = [ledger.points("test", row, replace(setting, steps=count)) for count in steps]
    images = [image for image in points[0] if all(image in found for found in points)]
    curves = []
    for image in images:
        seconds, psnr = zip(*(found[image] for found in points), strict=True)
        curves.append(ImageCurve(image[0], image[1], seconds, psnr))
    return curves


def scene_mean(curves: Sequence[ImageCurve], values: Sequence[float]) -> float:
    """Mean over scenes, each the mean over its images and seeds, of a number for each curve."""
    by_scene: dict[str, list[float]] = {}
    for curve, value in zip(curves, values, strict=True):
        by_scene.setdefault(curve.scene, []).append(value)
    return float(np.mean([np.mean(found) for found in by_scene.values()]))


def after_steps(curves: Sequence[ImageCurve]) -> list[float]:
    """Mean PSNR at each of the steps."""
    return [scene_mean(curves, [curve.psnr[i] for curve in curves]) for i in range(len(curves[0].psnr))]


def after_seconds(curves: Sequence[ImageCurve], budgets: Sequence[float]) -> list[float]:
    """Mean PSNR after the seconds of each budget: of every image on the line between the two points around it, and at
    its last point where it had ended before."""
    return [scene_mean(curves, [float(np.interp(t, c.seconds, c.psnr)) for c in curves]) for t in budgets]


def mean_seconds(curves: Sequence[ImageCurve]) -> list[float]:
    """Mean seconds of test-time optimisation at each of the steps."""
    return [scene_mean(curves, [curve.seconds[i] for curve in curves]) for i in range(len(curves[0].seconds))]
