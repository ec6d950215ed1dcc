# SPDX-License-Identifier: Apache-2.0
"""From photographs as a file describes them to a scene that can be used: what readers of all formats share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .errors import ImageError, SceneError, SceneWarning
from .frames import Development, Frame
from .images import WHITE, ImageHeader, inspect_image
from .intrinsics import Intrinsics
from .lenses import Distortion, Lens
from .orientations import TURNS, turned_intrinsics, turned_pose
from .scenes import PointCloud, Scene

ROTATION_TOLERANCE = 1e-3
POINT_TOLERANCE = 1e-6
"""Cameras nearer to one another than this share of their distance from the origin or the points are at one place."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph with its camera, as a file describes it.

    Attributes:
        image_path: the file.
        camera_to_world: OpenGL axes: x right, y up, z backward.
        intrinsics: pixels of the stored raster, or of the upright image (EXIF): their width and height tell which.
        distortion: of the lens, in the axes of the intrinsics.
    """

    image_path: Path
    camera_to_world: Float[np.ndarray, "4 4"]
    intrinsics: Intrinsics
    distortion: Distortion = Distortion()  # noqa: RUF009 - immutable


def scene_from_photographs(
    path: Path,
    photographs: Sequence[Photograph],
    points: PointCloud | None = None,
    *,
    background: tuple[float, float, float] = WHITE,
    min_frames: int = 1,
) -> Scene:
    """A scene of upright, undistorted frames. Headers of all images are read and checked, no image is kept.

    A photograph whose file is missing or damaged or has another size than its intrinsics, or whose pose is not finite,
    is left out with a warning that names it.

    Intrinsics and poses of a file with an EXIF orientation are those of its stored raster (as COLMAP and nerfstudio
    read images) or of the upright image, whichever has the stated width and height. Where both have (upside down,
    mirrored, square), the other photographs of the scene decide, and failing that it is the stored raster. A mirrored
    raster whose camera is that of the raster stays as it is stored.

    Args:
        path: of the scene, for messages and its name.
        photographs: in the order that the frames shall have.
        points: sparse points in the same world.
        background: RGB in [0, 1] behind images with transparency.
        min_frames: how many photographs must be usable.

    Raises:
        SceneError: too few usable photographs, all cameras at one point, a rotation that is none, a distortion that
            cannot be undone.
    """
    kept: list[tuple[Photograph, ImageHeader]] = []
    reasons: list[str] = []
    for photograph in photographs:
        if not np.isfinite(photograph.camera_to_world).all():
            reasons.append(f"{photograph.image_path}: its pose (transform_matrix) holds a NaN or an infinity")
            continue
        try:
            photograph = replace(photograph, camera_to_world=_rigid(photograph))
            kept.append((photograph, _inspected(photograph)))
        except ImageError as error:
            reasons.append(str(error))
    if len(kept) < min_frames:
        of = f"{len(kept)} of {len(photographs)} photographs can be used, at least {min_frames} are needed"
        raise SceneError(f"{path}: {of}" + (f"; the first that cannot: {reasons[0]}" if reasons else ""))
    for reason in reasons:
        warnings.warn(f"photograph left out: {reason}", SceneWarning, stacklevel=2)
    default_upright = _scene_is_upright(kept)
    frames = tuple(_frame(photograph, header, default_upright, background) for photograph, header in kept)
    _check_positions(path, frames, points)
    return Scene(path, frames, points)


def _inspected(photograph: Photograph) -> ImageHeader:
    header = inspect_image(photograph.image_path)
    size = (photograph.intrinsics.width, photograph.intrinsics.height)
    stored = (header.width, header.height)
    upright = stored[::-1] if TURNS[header.orientation].transposed else stored
    if size not in (stored, upright):
        raise ImageError(
            f"{photograph.image_path}: the image is {stored[0]}x{stored[1]}, its intrinsics are for "
            f"{size[0]}x{size[1]} (fields w, h)"
        )
    return header


def _is_upright(photograph: Photograph, header: ImageHeader) -> bool | None:
    """Whether the camera is that of the upright image rather than of the stored raster; None if size does not tell."""
    if not TURNS[header.orientation].transposed or header.width == header.height:
        return None
    return photograph.intrinsics.width == header.height


def _scene_is_upright(kept: Sequence[tuple[Photograph, ImageHeader]]) -> bool:
    told = {_is_upright(*each) for each in kept} - {None}
    return told == {True}


def _frame(
    photograph: Photograph, header: ImageHeader, default_upright: bool, background: tuple[float, float, float]
) -> Frame:
    told = _is_upright(photograph, header)
    upright = default_upright if told is None else told
    before, after = (header.orientation, 1) if upright else (1, header.orientation)
    if TURNS[after].mirrors:
        after = 1
    intrinsics = photograph.intrinsics
    lens = None
    if not photograph.distortion.is_zero:
        lens = Lens(intrinsics, photograph.distortion)
        try:
            left, top, right, bottom = lens.pinhole_box
        except SceneError as error:
            raise SceneError(f"{photograph.image_path}: {error}") from error
        cx, cy = intrinsics.cx - left, intrinsics.cy - top
        intrinsics = Intrinsics(intrinsics.fx, intrinsics.fy, cx, cy, right - left, bottom - top)
    return Frame(
        photograph.image_path,
        turned_pose(photograph.camera_to_world, after),
        turned_intrinsics(intrinsics, after),
        Development(before, lens, after, background),
    )


def _rigid(photograph: Photograph) -> Float[np.ndarray, "4 4"]:
    """The pose with the nearest rotation: poses are printed with few digits, and later products shall be exact."""
    pose = np.array(photograph.camera_to_world, dtype=np.float64)
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise SceneError(
            f"{photograph.image_path}: its pose (transform_matrix) has no rotation in its upper left 3x3 block"
        )
    left, _, right = np.linalg.svd(rotation)
    pose[:3, :3] = left @ right
    pose[3] = [0.0, 0.0, 0.0, 1.0]
    return pose


def _check_positions(path: Path, frames: Sequence[Frame], points: PointCloud | None) -> None:
    if len(frames) < 2:
        return
    centers = np.stack([frame.camera_to_world[:3, 3] for frame in frames])
    spread = np.linalg.norm(centers - centers[0], axis=1).max()
    reach = np.abs(centers).max()
    if points is not None:
        reach = max(reach, float(np.median(np.linalg.norm(points.points - centers[0], axis=1))))
    if spread <= POINT_TOLERANCE * reach:
        raise SceneError(
            f"{path}: all {len(frames)} cameras are at one point (transform_matrix, last column); views that differ in "
            "direction alone tell nothing of depth"
        )
