# SPDX-License-Identifier: Apache-2.0
"""Niantic's .spz files, decoded by the optional package gsply (all container versions, gzip and zstd)."""

from __future__ import annotations

from pathlib import Path

import torch

from .eight_bit import limit_logits
from .frames import Similarity
from .gaussians import Gaussians


def read_spz(path: str | Path) -> Gaussians:
    """Read Gaussians from a .spz file, float32.

    The format's axes are right-up-back; the result has the right-down-forward axes of 3DGS .ply files, so an object
    stored in both comes out alike. Saturated opacities become those half a step from 0 and 1 (see `eight_bit`).

    Raises:
        ImportError: gsply is not installed.
        ValueError: not a .spz file, or a value is not finite; names the file.
    """
    try:
        from gsply import read_spz as decode
    except ImportError as error:
        raise ImportError(f"{path}: reading .spz needs the package gsply: pip install 'gsply[spz]'") from error
    try:
        data = decode(str(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the decoder trips over, the file is at fault
        raise ValueError(f"{path}: not a readable .spz file ({error})") from error

    means = torch.as_tensor(data.means, dtype=torch.float32)
    rest = means.new_zeros(len(means), 0, 3) if data.shN is None else torch.as_tensor(data.shN, dtype=torch.float32)
    gaussians = Gaussians(
        means=means,
        quats=torch.as_tensor(data.quats, dtype=torch.float32),
        scales=torch.as_tensor(data.scales, dtype=torch.float32),
        opacities=limit_logits(torch.as_tensor(data.opacities, dtype=torch.float32).reshape(-1)),
        sh0=torch.as_tensor(data.sh0, dtype=torch.float32)[:, None],
        shN=rest,
    )
    half_turn = Similarity(torch.tensor(1.0), torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.zeros(3))
    return half_turn.apply_gaussians(gaussians.check_finite(f"{path}: Gaussians"))
