# SPDX-License-Identifier: Apache-2.0
"""Recognising a scene's format."""

from __future__ import annotations

from pathlib import Path

from .colmap import find_model, read_colmap
from .errors import SceneError
from .images import WHITE
from .scenes import Scene
from .transforms_json import read_transforms_json

TRANSFORMS = "transforms.json"
PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".dng")


def is_scene(path: Path) -> bool:
    """Whether a folder looks like one scene in a known format; says nothing of whether it can be used."""
    return (path / TRANSFORMS).is_file() or find_model(path) is not None


def has_photographs(path: Path) -> bool:
    """Whether there are images in a folder or in its sub-folder `images`."""
    folders = [folder for folder in (path, path / "images") if folder.is_dir()]
    return any(entry.suffix.lower() in PHOTOGRAPH_SUFFIXES for folder in folders for entry in folder.iterdir())


def load_scene(path: str | Path, *, background: tuple[float, float, float] = WHITE, min_frames: int = 1) -> Scene:
    """Read a scene: a folder with a transforms.json (of nerfstudio or instant-ngp), such a file itself under any name,
    or a folder with a COLMAP model (cameras, images and points3D as .bin or .txt in it, in sparse/, sparse/0/, …).

    Photographs that cannot be used are left out with a warning that names the file. Their headers are checked; no image
    is decoded.

    Args:
        path: of the scene.
        background: RGB in [0, 1] behind images with transparency.
        min_frames: how many photographs must be usable.

    Raises:
        SceneError: nothing there that is a scene, a field that is missing or wrong, too few usable photographs.
    """
    path = Path(path)
    if not path.exists():
        raise SceneError(f"{path}: no such file or folder")
    if path.is_file():
        return read_transforms_json(path, background=background, min_frames=min_frames)
    if (path / TRANSFORMS).is_file():
        return read_transforms_json(path / TRANSFORMS, background=background, min_frames=min_frames)
    model = find_model(path)
    if model is not None:
        return read_colmap(path, model, background=background, min_frames=min_frames)
    others = sorted(file.name for file in path.glob("transforms*.json"))
    if others:
        raise SceneError(
            f"{path}: no {TRANSFORMS} in this folder, but {', '.join(others)}; give one of them as the path"
        )
    if has_photographs(path):
        raise SceneError(
            f"{path}: photographs, but no camera poses (neither {TRANSFORMS} nor a COLMAP model); ns-process-data "
            "makes them, ns-diff3r reconstruct does where pycolmap is installed, and diff3r-da3 predicts them"
        )
    raise SceneError(f"{path}: no scene found in this folder (it has neither {TRANSFORMS} nor a COLMAP model)")
