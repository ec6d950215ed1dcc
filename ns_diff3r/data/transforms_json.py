# SPDX-License-Identifier: Apache-2.0
"""Reader of nerfstudio's transforms.json: OpenGL camera-to-world poses, shared or own intrinsics, sparse points."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .errors import SceneError
from .images import image_size
from .intrinsics import Intrinsics
from .point_clouds import read_point_cloud
from .scenes import Frame, Scene

PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
"""Values of camera_model that are pinhole cameras once their distortion is zero."""

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
ROTATION_TOLERANCE = 1e-3


def read_transforms_json(path: Path) -> Scene:
    """Read the scene that a transforms.json describes; paths in it are relative to its folder.

    Each field is looked up in the frame first, then at the top: fl_x, fl_y (default fl_x), cx, cy (default: the image's
    centre), w, h (default: from the image's header), camera_model, distortion (must be zero), ply_file_path (optional).

    Raises:
        SceneError: unreadable, or a field missing or wrong; the message names the file, the frame and the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SceneError(f"{path}: not readable as JSON ({error})") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise SceneError(f"{path}: no frames (field frames)")
    if not all(isinstance(frame, dict) for frame in frames):
        raise SceneError(f"{path}: every entry of frames must be an object")
    shared = {name: value for name, value in content.items() if name != "frames"}
    points = None
    if shared.get("ply_file_path"):
        points = read_point_cloud(path.parent / str(shared["ply_file_path"]))
    return Scene(path.parent, tuple(_read_frame(path, i, {**shared, **f}) for i, f in enumerate(frames)), points)


def _read_frame(path: Path, index: int, fields: dict[str, Any]) -> Frame:
    if not isinstance(fields.get("file_path"), str):
        raise SceneError(f"{path}: frames[{index}] has no image (field file_path)")
    where = f"{path}: frames[{index}] ({fields['file_path']})"
    image_path = path.parent / fields["file_path"]
    return Frame(image_path, _read_pose(where, fields), _read_intrinsics(where, fields, image_path))


def _read_pose(where: str, fields: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    try:
        pose = np.array(fields.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
    if pose.shape != (4, 4):
        raise SceneError(f"{where}: transform_matrix must be a 4x4 matrix of numbers")
    if not np.isfinite(pose).all():
        raise SceneError(f"{where}: transform_matrix holds a NaN or an infinity")
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise SceneError(f"{where}: transform_matrix has no rotation in its upper left 3x3 block")
    # Poses are printed with few digits; the nearest rotation keeps later products exact.
    left, _, right = np.linalg.svd(rotation)
    pose[:3, :3] = left @ right
    pose[3] = [0.0, 0.0, 0.0, 1.0]
    return pose


def _read_intrinsics(where: str, fields: dict[str, Any], image_path: Path) -> Intrinsics:
    model = fields.get("camera_model", "OPENCV")
    if model not in PINHOLE_MODELS:
        raise SceneError(f"{where}: camera_model {model!r} is not a pinhole camera")
    for name in DISTORTION:
        if name in fields and _number(where, fields, name) != 0.0:
            raise SceneError(f"{where}: {name} = {fields[name]}; distorted images are not read, undistort them first")
    width, height = (_optional(where, fields, name) for name in ("w", "h"))
    if width is None or height is None:
        width, height = image_size(image_path)
    if width < 1 or height < 1 or width != int(width) or height != int(height):
        raise SceneError(f"{where}: w and h must be positive whole numbers, got {width} and {height}")
    fx = _number(where, fields, "fl_x")
    fy, cx, cy = (_optional(where, fields, name) for name in ("fl_y", "cx", "cy"))
    fy = fx if fy is None else fy
    if fx <= 0 or fy <= 0:
        raise SceneError(f"{where}: focal lengths must be positive, got fl_x = {fx}, fl_y = {fy}")
    cx, cy = (width / 2 if cx is None else cx), (height / 2 if cy is None else cy)
    return Intrinsics(fx, fy, cx, cy, int(width), int(height))


def _optional(where: str, fields: dict[str, Any], name: str) -> float | None:
    return None if fields.get(name) is None else _number(where, fields, name)


def _number(where: str, fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if value is None:
        raise SceneError(f"{where}: {name} is missing, in the frame and at the top of the file")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SceneError(f"{where}: {name} must be a finite number, got {value!r}")
    return float(value)
