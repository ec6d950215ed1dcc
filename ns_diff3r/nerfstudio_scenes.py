# SPDX-License-Identifier: Apache-2.0
"""Scenes from nerfstudio's own dataparsers, so that every format that nerfstudio reads can be used."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs

from .data import Intrinsics, PointCloud, Scene, SceneError
from .data.images import WHITE
from .data.lenses import Distortion
from .data.photographs import Photograph, scene_from_photographs
from .data.split import MIN_TRAINING_VIEWS
from .dataparser import Placement
from .run_checks import say
from .splats import Similarity

SPLITS = ("train", "val", "test")


def scene_from_dataparser(dataparser: DataParser) -> tuple[Scene, Placement]:
    """All images that a dataparser lists, in any of its splits, as one scene in its world.

    Its world is nerfstudio's already: the placement moves nothing and only records what the dataparser did. Masks are
    ignored with a note.

    Raises:
        SceneError: what the dataparser fails at, no image, cameras that are not perspective, or what
            `scene_from_photographs` refuses.
    """
    path = Path(dataparser.config.data)
    photographs: dict[Path, Photograph] = {}
    points, background, masked = None, None, False
    outputs: DataparserOutputs | None = None  # of any split: they share transform and scale
    splits = SPLITS
    if hasattr(dataparser.config, "eval_mode"):  # it can list all images at once
        dataparser, splits = copy(dataparser), SPLITS[:1]
        dataparser.config = replace(dataparser.config, **{"eval_mode": "all"})
    for split in splits:
        try:
            outputs = dataparser.get_dataparser_outputs(split=split)
        except Exception as error:  # dataparsers assert, divide by zero, miss keys
            if split != SPLITS[0] and isinstance(error, FileNotFoundError | ValueError):
                continue  # many formats have no such list
            fault = f"{type(dataparser).__name__} cannot read it: {type(error).__name__}: {error}"
            raise SceneError(f"{path}: {fault}") from error
        for photograph in _photographs(path, outputs):
            photographs.setdefault(photograph.image_path, photograph)
        points = _points(outputs) if points is None else points
        background = outputs.alpha_color if background is None else background
        masked = masked or outputs.mask_filenames is not None
    if not photographs or outputs is None:
        raise SceneError(f"{path}: {type(dataparser).__name__} lists no image")
    if masked:
        say(f"{path}: masks are ignored; ns-diff3r trains on whole images", style="yellow")
    ordered = [photographs[image] for image in sorted(photographs)]
    red, green, blue = WHITE if background is None else torch.as_tensor(background).tolist()
    scene = scene_from_photographs(path, ordered, points, background=(red, green, blue), min_frames=MIN_TRAINING_VIEWS)
    scale = float(outputs.dataparser_scale)
    return scene, Placement(Similarity.identity(torch.float64), outputs.dataparser_transform.float(), scale)


def _photographs(path: Path, outputs: DataparserOutputs) -> Iterator[Photograph]:
    cameras = outputs.cameras
    for index, file in enumerate(outputs.image_filenames):
        kind = CameraType(int(cameras.camera_type[index]))
        if kind is not CameraType.PERSPECTIVE:
            raise SceneError(
                f"{path}: {file} was taken by a {kind.name.lower()} camera; only perspective ones are read"
            )
        pose = np.eye(4)
        pose[:3] = cameras.camera_to_worlds[index].double().numpy()
        fx, fy, cx, cy, width, height = (
            float(values[index])
            for values in (cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height)
        )
        coefficients = [0.0] * 6 if cameras.distortion_params is None else cameras.distortion_params[index].tolist()
        k1, k2, k3, k4, p1, p2 = coefficients
        yield Photograph(
            Path(file),
            pose,
            Intrinsics(fx, fy, cx, cy, int(width), int(height)),
            Distortion(k1, k2, k3, k4, p1, p2),
        )


def _points(outputs: DataparserOutputs) -> PointCloud | None:
    """Sparse points where the dataparser loads them (8-bit colours)."""
    points, colors = (outputs.metadata.get(f"points3D_{name}") for name in ("xyz", "rgb"))
    if points is None or len(points) == 0:
        return None
    positions = torch.as_tensor(points).double().numpy()
    shades = np.full_like(positions, 0.5) if colors is None else torch.as_tensor(colors).double().numpy() / 255.0
    return PointCloud(positions, shades)
