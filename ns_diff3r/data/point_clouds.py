# SPDX-License-Identifier: Apache-2.0
"""Sparse points with colours in .ply files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from .errors import SceneError
from .scenes import PointCloud


def read_point_cloud(path: Path) -> PointCloud:
    """Read x, y, z and, where present, 8-bit red, green, blue (else mid-grey); points that are not finite are left out.

    Raises:
        SceneError: missing, not a .ply, or without vertices.
    """
    from plyfile import PlyData, PlyParseError

    try:
        vertices = PlyData.read(str(path))["vertex"].data
        points = np.stack([vertices[axis].astype(np.float64) for axis in ("x", "y", "z")], axis=1)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such point cloud (field ply_file_path)") from None
    except (OSError, PlyParseError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: not a readable point cloud ({error})") from error
    channels = ("red", "green", "blue")
    if all(channel in (vertices.dtype.names or ()) for channel in channels):
        colors = np.stack([vertices[channel].astype(np.float64) for channel in channels], axis=1) / 255.0
    else:
        colors = np.full_like(points, 0.5)
    finite = np.isfinite(points).all(axis=1) & np.isfinite(colors).all(axis=1)
    if not finite.any():
        raise SceneError(f"{path}: the point cloud holds no finite point")
    return PointCloud(points[finite], colors[finite].clip(0.0, 1.0))


def write_point_cloud(
    path: Path, points: Float[np.ndarray, "P 3"], colors: Float[np.ndarray, "P 3"], *, decimals: int = 4
) -> None:
    """Write points and their colours in [0, 1] (stored as 8 bit) as an ASCII .ply."""
    colors = np.rint(colors.clip(0.0, 1.0) * 255).astype(int)
    rows = [
        f"{x:.{decimals}f} {y:.{decimals}f} {z:.{decimals}f} {r} {g} {b}"
        for (x, y, z), (r, g, b) in zip(points.tolist(), colors.tolist(), strict=True)
    ]
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    path.write_text("\n".join([*header, "end_header", *rows]) + "\n", encoding="ascii")
