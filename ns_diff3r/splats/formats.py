# SPDX-License-Identifier: Apache-2.0
"""Reading Gaussians from any of the known file formats, and the `.splat` format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .covariances import SCALE_MIN
from .eight_bit import logits_of_bytes
from .gaussians import Gaussians
from .ply import read_ply
from .sog import read_sog
from .spherical_harmonics import rgb_to_sh0
from .spz import read_spz

SPLAT_RECORD = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
ZIP_MAGIC = b"PK\x03\x04"
KNOWN = ".ply (standard 3DGS or SuperSplat's compressed), .splat, .spz, .sog (or its folder with meta.json)"


def load_gaussians(path: str | Path) -> Gaussians:
    """Read Gaussians, float32, from any known format, told apart by contents, then name.

    These are .ply (standard or compressed), .splat, .spz and SOG, which is a .sog file, a folder, or its meta.json.

    Raises:
        FileNotFoundError: no such file.
        ImportError: .spz without the package that decodes it.
        ValueError: another format, or a file that does not hold what its format needs; names the file.
    """
    path = Path(path)
    if path.is_dir():
        return read_sog(path)
    with path.open("rb") as stream:
        magic = stream.read(4)
    suffix = path.suffix.lower()
    if magic[:3] == b"ply":
        return read_ply(path)
    if magic == b"NGSP" or suffix == ".spz":
        return read_spz(path)
    if magic == ZIP_MAGIC or suffix in (".sog", ".json"):
        return read_sog(path)
    if suffix == ".splat":
        return read_splat(path)
    raise ValueError(f"{path}: unknown format; Gaussians are read from {KNOWN}")


def read_splat(path: str | Path) -> Gaussians:
    """Read a .splat file, float32, SH degree 0.

    32 bytes per Gaussian: position and standard deviations as float32, then bytes of red, green, blue, opacity, and of
    the quaternion wxyz as 128 + 128 q. Saturated opacities become those half a step from 0 and 1 (see `eight_bit`).

    Raises:
        ValueError: the size is not a multiple of 32 bytes, or a value is not finite; names the file.
    """
    data = Path(path).read_bytes()
    if len(data) % SPLAT_RECORD.itemsize:
        raise ValueError(f"{path}: a .splat file has {SPLAT_RECORD.itemsize} bytes per Gaussian, this one {len(data)}")
    records = np.frombuffer(data, dtype=SPLAT_RECORD)
    rgba = torch.from_numpy(records["rgba"].astype(np.float32) / 255)
    gaussians = Gaussians(
        means=torch.from_numpy(records["means"].astype(np.float32)),
        quats=torch.from_numpy((records["quats"].astype(np.float32) - 128) / 128),
        scales=torch.from_numpy(records["scales"].astype(np.float32)).clamp_min(SCALE_MIN).log(),
        opacities=logits_of_bytes(rgba[:, 3]),
        sh0=rgb_to_sh0(rgba[:, :3])[:, None],
        shN=torch.zeros(len(records), 0, 3),
    )
    return gaussians.check_finite(f"{path}: Gaussians")
