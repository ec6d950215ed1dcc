# SPDX-License-Identifier: Apache-2.0
"""Numbers that the paper states, to stand beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DataSet = Literal["re10k", "scannetpp-dslr", "scannetpp-iphone", "own"]
"""Whose numbers are shown; "own": none."""

NO_WEIGHTS = "no weights given"
NOT_BUILT = "this network is not built here; its .ply files can be given"


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table of the paper.

    Attributes:
        key: by which a row that is measured is put beside it.
        label: as the paper calls it.
        figures: metric → (before, after) test-time optimisation.
        why_not_run: said where no such row is measured.
    """

    key: str
    label: str
    figures: Mapping[str, tuple[float, float]]
    why_not_run: str = NO_WEIGHTS


def _row(
    key: str,
    label: str,
    psnr: tuple[float, float],
    ssim: tuple[float, float],
    lpips: tuple[float, float],
    why_not_run: str = NO_WEIGHTS,
) -> PublishedRow:
    return PublishedRow(key, label, {"psnr": psnr, "ssim": ssim, "lpips": lpips}, why_not_run)


POSED: dict[str, tuple[PublishedRow, ...]] = {
    "re10k": (
        _row("pixelsplat", "pixelSplat", (25.856, 26.144), (0.848, 0.854), (0.150, 0.145), NOT_BUILT),
        _row("mvsplat", "MVSplat", (26.654, 26.649), (0.864, 0.866), (0.132, 0.131), NOT_BUILT),
        _row("depthsplat", "DepthSplat (a)", (27.665, 27.694), (0.886, 0.888), (0.117, 0.116)),
        _row("diff3r-no-prior", "Diff3R, no prior at TTO (b)", (27.675, 27.828), (0.887, 0.890), (0.116, 0.115)),
        _row("diff3r-global", "Diff3R, one λ for all (c)", (27.630, 27.746), (0.888, 0.889), (0.116, 0.115)),
        _row("diff3r", "Diff3R (d)", (27.675, 27.949), (0.887, 0.891), (0.116, 0.112)),
    )
}
UNPOSED: dict[str, tuple[PublishedRow, ...]] = {
    "re10k": (
        _row("anysplat", "AnySplat", (17.762, 17.546), (0.603, 0.585), (0.325, 0.328), NOT_BUILT),
        _row("da3", "DA3", (21.981, 22.582), (0.741, 0.764), (0.223, 0.205)),
        _row("diff3r", "Diff3R", (22.043, 22.806), (0.742, 0.767), (0.221, 0.202)),
    ),
    "scannetpp-dslr": (
        _row("anysplat", "AnySplat", (18.84, 18.66), (0.675, 0.654), (0.307, 0.312), NOT_BUILT),
        _row("da3", "DA3", (23.54, 24.29), (0.820, 0.844), (0.193, 0.174)),
        _row("diff3r", "Diff3R", (23.78, 24.64), (0.824, 0.850), (0.182, 0.162)),
    ),
    "scannetpp-iphone": (
        _row("anysplat", "AnySplat", (18.21, 18.08), (0.671, 0.655), (0.304, 0.299), NOT_BUILT),
        _row("da3", "DA3", (23.23, 24.43), (0.840, 0.878), (0.171, 0.152)),
        _row("diff3r", "Diff3R", (23.15, 24.57), (0.840, 0.881), (0.167, 0.145)),
    ),
}
TITLES = {
    "re10k": "RealEstate10K, 6474 test scenes",
    "scannetpp-dslr": "ScanNet++ DSLR, official validation split",
    "scannetpp-iphone": "ScanNet++ iPhone, official validation split",
}


def published_rows(unposed: bool, data_set: DataSet) -> tuple[PublishedRow, ...]:
    """The paper's rows of a protocol on a data set; () where it states none."""
    return (UNPOSED if unposed else POSED).get(data_set, ())
