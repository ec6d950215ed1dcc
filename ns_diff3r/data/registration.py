# SPDX-License-Identifier: Apache-2.0
"""Camera poses of a folder of photographs: structure from motion by pycolmap (the optional extra `colmap`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .colmap import import_pycolmap, read_camera, read_points, read_pose
from .errors import ImageError, SceneError, SceneWarning
from .images import inspect_image
from .readers import PHOTOGRAPH_SUFFIXES
from .transforms_writing import frame_fields, write_transforms

if TYPE_CHECKING:
    from types import ModuleType

MOST_PAIRED = 150
"""Up to so many photographs every one is matched with every other; more are taken for a sequence."""
CAREFUL, DARING = "careful", "daring"
STAGES = ("features", "matches", "poses")
WHAT_HELPS = (
    "What helps: photographs that overlap by more than half, taken from different places rather than turned on one "
    "spot, sharp, of things that do not move, with texture (no bare walls, no mirrors); more of them between those "
    "that were not placed"
)


class RegistrationError(SceneError):
    """Too few photographs could be placed; the message says how many and what helps."""


@dataclass(frozen=True)
class Registration:
    """What structure from motion found.

    Attributes:
        transforms: the file that was written, which `load_scene` and nerfstudio read.
        num_photographs: readable photographs in the folder.
        num_registered: how many of them have a pose.
    """

    transforms: Path
    num_photographs: int
    num_registered: int


def register_photographs(
    photographs: str | Path,
    output: str | Path,
    *,
    min_registered: int = 3,
    progress: Callable[[str], None] | None = None,
) -> Registration:
    """Find poses, intrinsics and sparse points; write them as transforms.json and sparse_pc.ply. The photographs stay
    where they are, COLMAP's own files are in `output`/colmap.

    Photographs of one size share one camera (SIMPLE_RADIAL). If the usual thresholds place too few, COLMAP is run once
    more with those for small baselines and few matches.

    Args:
        photographs: a folder with images in it or in its sub-folder `images`.
        output: folder to write to; files of an earlier call are replaced.
        min_registered: how many photographs must be placed; fewer are an error.
        progress: called with each of `STAGES` when it begins.

    Raises:
        RegistrationError: fewer were placed.
        SceneError: pycolmap is not installed, no folder, or fewer readable photographs than asked for.
    """
    report = progress or (lambda stage: None)
    folder, output = photograph_folder(Path(photographs)), Path(output)
    pycolmap = import_pycolmap(f"{folder}: finding the poses of photographs")
    names, sizes = readable_photographs(folder)
    if len(names) < min_registered:
        raise RegistrationError(
            f"{folder}: {len(names)} readable photographs, and at least {min_registered} are needed to find poses"
        )
    work = output / "colmap"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    quiet, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, int(pycolmap.logging.FATAL)
    try:
        model = _reconstruct(pycolmap, folder, names, len(sizes) == 1, work, min_registered, report)
    finally:
        pycolmap.logging.minloglevel = quiet
    count = 0 if model is None else len(model.reg_image_ids())
    if model is None or count < min_registered:
        raise RegistrationError(
            f"{folder}: only {count} of {len(names)} photographs could be placed, and at least {min_registered} are "
            f"needed. {WHAT_HELPS}"
        )
    return Registration(_write(model, folder, output), len(names), count)


def photograph_folder(path: Path) -> Path:
    """The folder, or its sub-folder `images`, that holds photographs; SceneError if neither does."""
    if not path.is_dir():
        raise SceneError(f"{path}: no such folder")
    with_images = [folder for folder in (path, path / "images") if folder.is_dir() and _images_in(folder)]
    if not with_images:
        raise SceneError(f"{path}: no photographs in this folder ({', '.join(PHOTOGRAPH_SUFFIXES)})")
    return with_images[0]


def _images_in(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in PHOTOGRAPH_SUFFIXES)


def readable_photographs(folder: Path) -> tuple[list[str], set[tuple[int, int]]]:
    """Names of the photographs that can be read, and their sizes; the others with a warning."""
    import warnings

    names, sizes = [], set()
    for path in _images_in(folder):
        try:
            header = inspect_image(path)
        except ImageError as error:
            warnings.warn(f"photograph left out: {error}", SceneWarning, stacklevel=3)
            continue
        names.append(path.name)
        sizes.add((header.width, header.height))
    return names, sizes


def _reconstruct(
    pycolmap: ModuleType,
    folder: Path,
    names: list[str],
    one_camera: bool,
    work: Path,
    min_registered: int,
    report: Callable[[str], None],
) -> Any:
    """The reconstruction with the most images, or None."""
    database = work / "database.db"
    mode = pycolmap.CameraMode.SINGLE if one_camera else pycolmap.CameraMode.AUTO
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL")
    report("features")
    pycolmap.extract_features(database, folder, image_names=names, camera_mode=mode, reader_options=reader)
    report("matches")
    match = pycolmap.match_exhaustive if len(names) <= MOST_PAIRED else pycolmap.match_sequential
    match(database, verification_options=_verification_options(pycolmap))
    report("poses")
    best = None
    for manner in (CAREFUL, DARING):
        target = work / f"sparse-{manner}"
        target.mkdir()
        found = pycolmap.incremental_mapping(database, folder, target, _mapping_options(pycolmap, manner))
        for model in found.values():
            if best is None or model.num_reg_images() > best.num_reg_images():
                best = model
        if best is not None and best.num_reg_images() >= max(min_registered, len(names) // 2):
            break
    return best


def _verification_options(pycolmap: ModuleType) -> Any:
    """Those of pycolmap, with a seed: which photographs can be placed would change from run to run."""
    options = pycolmap.TwoViewGeometryOptions()
    if hasattr(options.ransac, "random_seed"):
        options.ransac.random_seed = 0
    return options


def _mapping_options(pycolmap: ModuleType, manner: str) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2
    options.random_seed = 0
    if manner == DARING:
        options.mapper.init_min_num_inliers = 30
        options.mapper.init_min_tri_angle = 4.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.min_num_matches = 10
    return options


def _write(model: Any, folder: Path, output: Path) -> Path:
    """transforms.json and sparse_pc.ply of a reconstruction; the former last and in one step."""
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda image: image.name)
    frames = []
    for image in images:
        intrinsics, distortion = read_camera(output, model.cameras[image.camera_id])
        frames.append(frame_fields(output, folder / image.name, read_pose(image), intrinsics))
        frames[-1] |= {name: value for name, value in asdict(distortion).items() if value}
    return write_transforms(output, frames, read_points(model))
