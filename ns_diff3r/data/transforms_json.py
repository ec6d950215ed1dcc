# SPDX-License-Identifier: Apache-2.0
"""Reader of transforms.json as nerfstudio and instant-ngp write it: OpenGL camera-to-world poses, shared or own
intrinsics with OpenCV's distortion, sparse points."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .errors import ImageError, SceneError, SceneWarning
from .images import WHITE, inspect_image
from .intrinsics import Intrinsics
from .lenses import Distortion
from .orientations import TURNS
from .photographs import Photograph, scene_from_photographs
from .point_clouds import read_point_cloud
from .scenes import Scene

MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
"""Values of camera_model that OpenCV's distortion covers."""
COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""In the order of nerfstudio's distortion_params."""
OTHER_COEFFICIENTS = ("k5", "k6", "s1", "s2", "s3", "s4", "b1", "b2")
SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".webp")
"""Tried where file_path has none, as in instant-ngp's and Blender's files."""


def read_transforms_json(path: Path, *, background: tuple[float, float, float] = WHITE, min_frames: int = 1) -> Scene:
    """Read the scene that a transforms.json describes; paths in it are relative to its folder.

    Each field is looked up in the frame first, then at the top: fl_x, fl_y (default fl_x), or camera_angle_x,
    camera_angle_y (field of view in radians); cx, cy (default: the image's centre); w, h (default: from the image's
    header); camera_model; k1 to k4, p1, p2 or distortion_params; ply_file_path (optional). Masks are not used.

    Args:
        path: of the file.
        background: RGB in [0, 1] behind images with transparency.
        min_frames: how many photographs must be usable.

    Raises:
        SceneError: unreadable, or a field missing or wrong; the message names the file, the frame and the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SceneError(f"{path}: not readable as JSON ({error})") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise SceneError(f"{path}: no frames (field frames)")
    if not all(isinstance(frame, dict) for frame in frames):
        raise SceneError(f"{path}: every entry of frames must be an object")
    shared = {name: value for name, value in content.items() if name != "frames"}
    photographs = [_read_frame(path, i, {**shared, **frame}) for i, frame in enumerate(frames)]
    if any(frame.get("mask_path") for frame in frames):
        warnings.warn(f"{path}: masks (field mask_path) are not used", SceneWarning, stacklevel=3)
    points = None
    if shared.get("ply_file_path"):
        points = read_point_cloud(path.parent / str(shared["ply_file_path"]))
    return scene_from_photographs(path.parent, photographs, points, background=background, min_frames=min_frames)


def _read_frame(path: Path, index: int, fields: dict[str, Any]) -> Photograph:
    if not isinstance(fields.get("file_path"), str):
        raise SceneError(f"{path}: frames[{index}] has no image (field file_path)")
    where = f"{path}: frames[{index}] ({fields['file_path']})"
    image_path = _find_image(path.parent, fields["file_path"])
    distortion = _read_distortion(where, fields)
    return Photograph(image_path, _read_pose(where, fields), _read_intrinsics(where, fields, image_path), distortion)


def _find_image(folder: Path, name: str) -> Path:
    """The file that is meant: with a suffix where none is given, and written on Windows or not."""
    for candidate in dict.fromkeys((folder / name, folder / name.replace("\\", "/"))):
        if candidate.is_file():
            return candidate
        for suffix in SUFFIXES:
            if candidate.with_name(candidate.name + suffix).is_file():
                return candidate.with_name(candidate.name + suffix)
    return folder / name


def _read_pose(where: str, fields: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    try:
        pose = np.array(fields.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
    if pose.shape != (4, 4):
        raise SceneError(f"{where}: transform_matrix must be a 4x4 matrix of numbers")
    return pose


def _read_distortion(where: str, fields: dict[str, Any]) -> Distortion:
    model = fields.get("camera_model", "OPENCV")
    if model not in MODELS or fields.get("is_fisheye"):
        model = model if model not in MODELS else "fisheye (field is_fisheye)"
        raise SceneError(
            f"{where}: camera_model {model!r} is not supported ({', '.join(MODELS)} are); undistort the photographs "
            "first, for example with colmap image_undistorter"
        )
    for name in OTHER_COEFFICIENTS:
        if _optional(where, fields, name):
            raise SceneError(f"{where}: {name} = {fields[name]} is not supported ({', '.join(COEFFICIENTS)} are)")
    values = fields.get("distortion_params")
    if values is None:
        return Distortion(**{name: _optional(where, fields, name) or 0.0 for name in COEFFICIENTS})
    if not isinstance(values, list) or len(values) != len(COEFFICIENTS):
        raise SceneError(f"{where}: distortion_params must be {len(COEFFICIENTS)} numbers ({', '.join(COEFFICIENTS)})")
    named: dict[str, Any] = dict(zip(COEFFICIENTS, values, strict=True))
    return Distortion(**{name: _number(f"{where}: distortion_params", named, name) for name in COEFFICIENTS})


def _read_intrinsics(where: str, fields: dict[str, Any], image_path: Path) -> Intrinsics:
    if fields.get("fl_x") is None and fields.get("camera_angle_x") is None:
        raise SceneError(f"{where}: fl_x is missing, in the frame and at the top of the file (as is camera_angle_x)")
    width, height, cx, cy = (_optional(where, fields, name) for name in ("w", "h", "cx", "cy"))
    if width is None or height is None:
        width, height = _size_of_file(image_path, cx, cy)
    if width < 1 or height < 1 or width != int(width) or height != int(height):
        raise SceneError(f"{where}: w and h must be positive whole numbers, got {width} and {height}")
    fx, fy = _focal(where, fields, "x", width), _focal(where, fields, "y", height)
    fx, fy = (fx or 0.0), (fx or 0.0) if fy is None else fy
    if fx <= 0 or fy <= 0:
        raise SceneError(f"{where}: focal lengths must be positive, got fl_x = {fx}, fl_y = {fy}")
    cx, cy = (width / 2 if cx is None else cx), (height / 2 if cy is None else cy)
    return Intrinsics(fx, fy, cx, cy, int(width), int(height))


def _size_of_file(image_path: Path, cx: float | None, cy: float | None) -> tuple[float, float]:
    """Width and height of the raster as stored, or of the upright image where (cx, cy) is nearer to its middle."""
    try:
        header = inspect_image(image_path)
    except ImageError:
        return 1.0, 1.0  # the photograph is left out for the same reason later
    stored, turned = (float(header.width), float(header.height)), (float(header.height), float(header.width))
    if cx is None or cy is None or not TURNS[header.orientation].transposed:
        return stored
    return min(stored, turned, key=lambda size: math.hypot(size[0] / 2 - cx, size[1] / 2 - cy))


def _focal(where: str, fields: dict[str, Any], axis: str, size: float) -> float | None:
    """Focal length in pixels, given as such or as a field of view over `size` pixels."""
    focal, angle = _optional(where, fields, f"fl_{axis}"), _optional(where, fields, f"camera_angle_{axis}")
    if focal is not None or angle is None:
        return focal
    if not 0 < angle < math.pi:
        raise SceneError(f"{where}: camera_angle_{axis} must be an angle between 0 and π, got {angle}")
    return 0.5 * size / math.tan(0.5 * angle)


def _optional(where: str, fields: dict[str, Any], name: str) -> float | None:
    return None if fields.get(name) is None else _number(where, fields, name)


def _number(where: str, fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SceneError(f"{where}: {name} must be a finite number, got {value!r}")
    return float(value)
