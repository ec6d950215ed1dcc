# SPDX-License-Identifier: Apache-2.0
"""Reader of COLMAP's sparse models, binary and text, through pycolmap (the optional extra `colmap`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from .errors import SceneError
from .images import WHITE
from .intrinsics import Intrinsics
from .lenses import Distortion
from .photographs import Photograph, scene_from_photographs
from .scenes import PointCloud, Scene

if TYPE_CHECKING:
    from types import ModuleType

MODEL_FOLDERS = ("", "sparse", "colmap/sparse", "colmap")
"""Where a model, or numbered models, may lie in a scene's folder."""
IMAGE_FOLDERS = ("images", "input", "rgb", ".")
MODELS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
}
"""Parameters of the camera models that are read, in COLMAP's order. Its pixel centres are at one half, as ours."""


def find_model(path: Path) -> Path | None:
    """The folder of the COLMAP model of a scene; of several numbered ones that with the most data (largest file of
    images). None if there is none."""
    found = []
    for name in MODEL_FOLDERS:
        folder = path / name
        if not folder.is_dir():
            continue
        numbered = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name.isdigit())
        found += [candidate for candidate in (folder, *numbered) if _model_files(candidate)]
    if not found:
        return None
    return max(found, key=lambda folder: _model_files(folder)[1].stat().st_size)


def _model_files(folder: Path) -> list[Path]:
    """The files of cameras and images of a model, or nothing."""
    for suffix in (".bin", ".txt"):
        files = [folder / f"{name}{suffix}" for name in ("cameras", "images")]
        if all(file.is_file() for file in files):
            return files
    return []


def read_colmap(
    path: Path, model: Path, *, background: tuple[float, float, float] = WHITE, min_frames: int = 1
) -> Scene:
    """Read the registered images of a model, in the order of their names, and its points.

    Images are looked for under `images`, `input`, `rgb` and the scene's folder itself.

    Args:
        path: the scene's folder.
        model: the folder of the model, as `find_model` finds it.
        background: RGB in [0, 1] behind images with transparency.
        min_frames: how many photographs must be usable.

    Raises:
        SceneError: pycolmap is not installed, the model cannot be read, or it has a camera model that is not supported.
    """
    pycolmap = import_pycolmap(f"{model}: reading a COLMAP model")
    try:
        reconstruction = pycolmap.Reconstruction(str(model))
    except Exception as error:  # pycolmap raises several kinds, by version
        raise SceneError(f"{model}: not a readable COLMAP model ({str(error).strip().splitlines()[-1]})") from error
    images = sorted((reconstruction.images[i] for i in reconstruction.reg_image_ids()), key=lambda image: image.name)
    if not images:
        raise SceneError(f"{model}: the COLMAP model has no registered image")
    folder = _image_folder(path, [image.name for image in images])
    cameras = {i: read_camera(model, camera) for i, camera in reconstruction.cameras.items()}
    photographs = [Photograph(folder / image.name, read_pose(image), *cameras[image.camera_id]) for image in images]
    return scene_from_photographs(
        path, photographs, read_points(reconstruction), background=background, min_frames=min_frames
    )


def import_pycolmap(what: str) -> ModuleType:
    """The module; SceneError, beginning with `what` needs it, if it is not installed."""
    try:
        import pycolmap
    except ImportError as error:
        raise SceneError(
            f"{what} needs pycolmap, which is not installed ({error}); pip install 'ns-diff3r[colmap]'"
        ) from error
    return pycolmap


def _image_folder(path: Path, names: list[str]) -> Path:
    """The folder that holds the most of the images."""
    counts = {folder: sum((path / folder / name).is_file() for name in names) for folder in IMAGE_FOLDERS}
    best = max(IMAGE_FOLDERS, key=lambda folder: counts[folder])
    if counts[best] == 0:
        raise SceneError(
            f"{path}: none of the {len(names)} images of the COLMAP model is found, such as {names[0]}; looked in "
            f"{', '.join(str(path / folder) for folder in IMAGE_FOLDERS)}"
        )
    return path / best if best != "." else path


def read_camera(model: Path, camera: Any) -> tuple[Intrinsics, Distortion]:
    """Intrinsics and distortion of a camera of pycolmap; SceneError, naming `model`, for an unsupported kind."""
    name = camera.model.name
    if name not in MODELS:
        raise SceneError(
            f"{model}: camera {camera.camera_id} has the model {name}, which is not supported ({', '.join(MODELS)} "
            "are); undistort the photographs first, for example with colmap image_undistorter"
        )
    values = {key: float(value) for key, value in zip(MODELS[name], camera.params, strict=True)}
    fx, fy = values.pop("fx", values.get("f", 0.0)), values.pop("fy", values.pop("f", 0.0))
    cx, cy = values.pop("cx"), values.pop("cy")
    if not (np.isfinite([fx, fy, cx, cy, *values.values()]).all() and fx > 0 and fy > 0):
        raise SceneError(f"{model}: camera {camera.camera_id} has parameters that are none: {camera.params}")
    return Intrinsics(fx, fy, cx, cy, int(camera.width), int(camera.height)), Distortion(**values)


def read_pose(image: Any) -> Float[np.ndarray, "4 4"]:
    """Camera to world with OpenGL axes."""
    transform: Any = image.cam_from_world
    if callable(transform):  # an attribute in older versions of pycolmap
        transform = transform()
    matrix = np.asarray(transform.matrix(), dtype=np.float64)
    rotation = matrix[:, :3].T
    pose = np.eye(4)
    pose[:3, :3] = rotation * [1.0, -1.0, -1.0]
    pose[:3, 3] = -rotation @ matrix[:, 3]
    return pose


def read_points(reconstruction: Any) -> PointCloud | None:
    """The finite points of a reconstruction of pycolmap, or None."""
    points = list(reconstruction.points3D.values())
    positions = np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3)
    colors = np.array([point.color for point in points], dtype=np.float64).reshape(-1, 3) / 255.0
    finite = np.isfinite(positions).all(axis=1)
    return PointCloud(positions[finite], colors[finite]) if finite.any() else None
