# SPDX-License-Identifier: Apache-2.0
"""Writer of transforms.json and sparse_pc.ply, as `read_transforms_json` and nerfstudio read them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .intrinsics import Intrinsics
from .point_clouds import write_point_cloud
from .readers import TRANSFORMS
from .scenes import PointCloud

POINTS = "sparse_pc.ply"


def frame_fields(
    output: Path, image: Path, camera_to_world: Float[np.ndarray, "4 4"], intrinsics: Intrinsics
) -> dict[str, Any]:
    """One entry of `frames`: the image relative to `output`, an OpenGL pose, pixel intrinsics."""
    return {
        "file_path": Path(os.path.relpath(image, output)).as_posix(),
        "transform_matrix": np.asarray(camera_to_world, dtype=np.float64).tolist(),
        "w": intrinsics.width,
        "h": intrinsics.height,
        "fl_x": intrinsics.fx,
        "fl_y": intrinsics.fy,
        "cx": intrinsics.cx,
        "cy": intrinsics.cy,
    }


def write_transforms(output: Path, frames: Sequence[dict[str, Any]], points: PointCloud | None = None) -> Path:
    """Write a scene into a folder, transforms.json last and in one step; returns that file."""
    output.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"camera_model": "OPENCV", "frames": list(frames)}
    if points is not None:
        write_point_cloud(output / POINTS, points.points, points.colors, decimals=6)
        content["ply_file_path"] = POINTS
    path = output / TRANSFORMS
    temporary = output / f".{TRANSFORMS}.saving"
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)
    return path
