# SPDX-License-Identifier: Apache-2.0
"""Writing Gaussians in the format that a file's name asks for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from .frames import Similarity
from .gaussians import Gaussians
from .ply import write_ply

FORMATS = (".ply", ".compressed.ply", ".spz")
SPZ_BITS = 23
"""Bits of a coordinate of an .spz file without its sign."""
SPZ_LOG_SCALES = (-10.0, 5.9375)
"""Logarithms of standard deviations that an .spz file can hold, in world units."""
SPZ_OUTSIDE = 0.01
"""Share of the Gaussians that may lie beyond them, and are clamped."""


def save_gaussians(gaussians: Gaussians, path: str | Path) -> None:
    """Write Gaussians: .ply in the standard 3DGS layout, .compressed.ply as SuperSplat's, .spz as Niantic's.

    The last two lose precision and need the package gsply. A file appears under its name only when it is complete.

    Raises:
        ImportError: gsply is needed and not installed.
        ValueError: another suffix, a parameter that is not finite, an SH degree that the format does not hold (the last
            two hold up to 3), or a scene in units in which its Gaussians are too small or too large for .spz.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_format(path)
    name = path.name.lower()
    if name.endswith((".compressed.ply", ".spz")):
        if gaussians.sh_degree > 3:
            raise ValueError(f"{path}: this format holds spherical harmonics up to degree 3, not {gaussians.sh_degree}")
        temporary = path.with_name(f".{path.name}.tmp{''.join(path.suffixes[-2:])}")
        try:
            (_write_spz if name.endswith(".spz") else _write_compressed)(gaussians, temporary, path)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        write_ply(gaussians, path)


def check_format(path: Path) -> None:
    """ValueError or ImportError, as `save_gaussians` raises them, before there is anything to write."""
    name = path.name.lower()
    if not name.endswith(FORMATS):
        raise ValueError(f"{path}: Gaussians are written as {', '.join(FORMATS)}")
    if name.endswith((".compressed.ply", ".spz")):
        try:
            import gsply  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"{path}: writing this format needs the package gsply: pip install 'gsply[spz]'"
            ) from error


def _write_compressed(gaussians: Gaussians, temporary: Path, path: Path) -> None:
    import gsply

    gsply.plywrite(str(temporary), _gsply_data(gaussians, path), compressed=True)


def _write_spz(gaussians: Gaussians, temporary: Path, path: Path) -> None:
    import gsply

    # The format's axes are right-up-back; ours, as those of .ply files, right-down-forward.
    half_turn = Similarity(torch.tensor(1.0), torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.zeros(3))
    low, high = SPZ_LOG_SCALES
    outside = ((gaussians.scales < low) | (gaussians.scales > high)).float().mean()
    if float(outside) > SPZ_OUTSIDE:
        raise ValueError(
            f"{path}: .spz holds standard deviations from {math.exp(low):.2g} to {math.exp(high):.3g} world units, and "
            f"{100 * float(outside):.0f} % of this scene's are beyond; the other formats hold them"
        )
    turned = half_turn.apply_gaussians(gaussians.detach().to(device="cpu", dtype=torch.float32))
    gsply.write_spz(str(temporary), _gsply_data(turned, path), fractional_bits=_fractional_bits(turned))


def _fractional_bits(gaussians: Gaussians) -> int:
    """Binary digits after the point of the fixed-point coordinates: as many as the extent of the scene leaves."""
    largest = float(gaussians.means.abs().max()) if gaussians.num_gaussians else 0.0
    whole = math.ceil(math.log2(largest)) + 1 if largest > 0.0 else 0
    return max(0, min(SPZ_BITS, SPZ_BITS - whole))


def _gsply_data(gaussians: Gaussians, path: Path) -> Any:
    import gsply

    g = gaussians.detach().to(device="cpu", dtype=torch.float32).check_finite(f"{path}: Gaussians")
    return gsply.GSData(
        means=g.means.contiguous().numpy(),
        scales=g.scales.contiguous().numpy(),
        quats=torch.nn.functional.normalize(g.quats, dim=-1).contiguous().numpy(),
        opacities=g.opacities.contiguous().numpy(),
        sh0=g.sh0.reshape(-1, 3).contiguous().numpy(),
        shN=g.shN.contiguous().numpy(),
    )
