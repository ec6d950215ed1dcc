# SPDX-License-Identifier: Apache-2.0
"""Gaussians in .ply files, in the layout of the original 3DGS.

One element `vertex` with x y z, nx ny nz (zero), f_dc_0…2, f_rest_0…, opacity (logit), scale_0…2 (log), rot_0…3 (wxyz).
f_rest is channel-major: all coefficients of red, then of green, then of blue.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from .compressed_ply import decode_compressed_ply, is_compressed
from .gaussians import Gaussians

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = (*POSITION, *COLOR, "opacity", *SCALE, *ROTATION)
REST_COUNTS = (0, 9, 24, 45, 72)


def read_ply(path: str | Path, dtype: torch.dtype = torch.float32) -> Gaussians:
    """Read Gaussians from a .ply: the standard layout (properties of any number type), or SuperSplat's compressed one.

    The SH degree follows from the number of f_rest properties. Further properties and elements are ignored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a PLY, a property is missing, or a value is not finite; names the file and the property.
    """
    try:
        ply = PlyData.read(str(path))
    except (PlyParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable PLY file ({error})") from error
    if is_compressed(ply):
        gaussians = decode_compressed_ply(ply, path)
    else:
        gaussians = _decode_standard(ply, path, np.dtype(np.float64 if dtype == torch.float64 else np.float32))
    return gaussians.to(dtype=dtype).check_finite(f"{path}: Gaussians")


def _decode_standard(ply: PlyData, path: str | Path, dtype: np.dtype) -> Gaussians:
    if "vertex" not in ply:
        raise ValueError(f"{path}: no element 'vertex'; it has {[element.name for element in ply.elements]}")
    vertices = ply["vertex"].data
    names = set(vertices.dtype.names or ())
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        hint = " (a point cloud rather than Gaussians?)" if set(POSITION) <= names and "f_dc_0" not in names else ""
        raise ValueError(f"{path}: element 'vertex' lacks the properties {', '.join(missing)}{hint}")
    num_rest = sum(name.startswith("f_rest_") for name in names)
    rest_names = [f"f_rest_{index}" for index in range(num_rest)]
    if num_rest not in REST_COUNTS or not names.issuperset(rest_names):
        raise ValueError(
            f"{path}: has {num_rest} properties f_rest_*, but f_rest_0, f_rest_1, … must number "
            f"{', '.join(map(str, REST_COUNTS))} (SH degree 0 to 4)"
        )

    def columns(wanted: tuple[str, ...] | list[str]) -> torch.Tensor:
        table = np.empty((len(vertices), len(wanted)), dtype=dtype)
        for index, name in enumerate(wanted):
            table[:, index] = vertices[name]
        return torch.from_numpy(table)

    return Gaussians(
        means=columns(POSITION),
        quats=columns(ROTATION),
        scales=columns(SCALE),
        opacities=columns(["opacity"])[:, 0],
        sh0=columns(COLOR)[:, None],
        shN=columns(rest_names).reshape(len(vertices), 3, num_rest // 3).transpose(1, 2).contiguous(),
    )


def write_ply(gaussians: Gaussians, path: str | Path) -> None:
    """Write Gaussians as little-endian float32 in the standard layout.

    The file appears under its name only when it is complete; `read_ply` of float32 Gaussians returns them exactly.

    Raises:
        ValueError: a parameter is not finite.
    """
    gaussians = gaussians.detach().to(device="cpu", dtype=torch.float32).check_finite(f"{path}: Gaussians")
    num = gaussians.num_gaussians
    num_rest = 3 * gaussians.shN.shape[1]
    groups = [
        (POSITION, gaussians.means),
        (NORMAL, torch.zeros(num, 3)),
        (COLOR, gaussians.sh0.reshape(num, 3)),
        ([f"f_rest_{index}" for index in range(num_rest)], gaussians.shN.transpose(1, 2).reshape(num, num_rest)),
        (["opacity"], gaussians.opacities[:, None]),
        (SCALE, gaussians.scales),
        (ROTATION, gaussians.quats),
    ]
    names = [name for group, _ in groups for name in group]
    table = torch.cat([values for _, values in groups], dim=1).contiguous().numpy()
    vertices = table.astype("<f4", copy=False).view([(name, "<f4") for name in names]).reshape(num)
    with complete_or_absent(Path(path)) as stream:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(stream)


@contextmanager
def complete_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A binary stream to a temporary name beside `path`, renamed to `path` on success and removed on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
