# SPDX-License-Identifier: Apache-2.0
"""Rows from files: Gaussians that any other program predicted, one .ply a scene.

    FOLDER/<scene>.ply      Gaussians in the scene's world, predicted from the context views of views.json
    FOLDER/<scene>.json     where they are in another world (of predicted poses): cameras of the frames in that world,

        {"12": {"world_to_camera": [[…], […], […], […]], "intrinsics": [fx, fy, cx, cy]}, …}

by frame number; OpenCV axes; intrinsics as fractions of width and height, and only where they differ from the given
ones. Frames that are not named are brought over by a similarity: that of the named context frames, or, where fewer than
two of these are named, of all that are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...data.batches import SceneBatch
from ...splats import Cameras, Gaussians
from ...training.config import TrainingConfig
from ..alignment import CameraAlignment, align_cameras
from .rows import Row, RowPrediction, row_settings
from .settings import PosedProtocol


class SplatRow(Row):
    """A folder of .ply files. Test-time optimisation has no prior, and the default learning rates.

    Raises:
        ValueError: no such folder, or no .ply file of any scene.
    """

    def __init__(self, name: str, folder: Path, protocol: PosedProtocol, scenes: Sequence[str]) -> None:
        self.name, self.folder, self.protocol = name, folder, protocol
        if not folder.is_dir():
            raise ValueError(f"row {name!r}: {folder}: no such folder")
        if scenes and not any((folder / f"{scene}.ply").is_file() for scene in scenes):
            raise ValueError(
                f"row {name!r}: {folder} holds none of the {len(scenes)} scenes; expected are files like "
                f"{scenes[0]}.ply, one a scene"
            )
        self.tto = row_settings(protocol, TrainingConfig())

    def identity(self) -> dict[str, Any]:
        """See `Row`."""
        return {"folder": str(self.folder.resolve())}

    def predict(self, batch: SceneBatch) -> RowPrediction:
        """See `Row`; FileNotFoundError where the scene has no file."""
        path = self.folder / f"{batch.name}.ply"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        gaussians = Gaussians.load(path).check_finite(str(path)).to(batch.context.device, batch.context.dtype)
        cameras_file = path.with_suffix(".json")
        if not cameras_file.is_file():
            return RowPrediction(gaussians, None, batch.context, batch.targets.cameras)
        context, targets, alignment = _cameras_of(cameras_file, batch, self.protocol)
        views = replace(batch.context, cameras=context)
        return RowPrediction(gaussians, None, views, targets, alignment)


def _cameras_of(path: Path, batch: SceneBatch, protocol: PosedProtocol) -> tuple[Cameras, Cameras, CameraAlignment]:
    """(context, targets) in the world of the Gaussians, and how the given world was brought there.

    Raises:
        ValueError: the file is not as described above, or names none of the frames.
    """
    frames = (*batch.context_indices, *batch.target_indices)
    content = _read(path)
    named = [place for place, frame in enumerate(frames) if str(frame) in content]
    if not named:
        raise ValueError(f"{path}: names none of the frames {', '.join(map(str, frames))}")
    context, targets = batch.context.cameras, batch.targets.cameras
    width, height = context.width, context.height
    viewmats, Ks = torch.cat([context.viewmats, targets.viewmats]), torch.cat([context.Ks, targets.Ks])
    given = Cameras(viewmats, Ks, width, height)
    own = [_camera(path, frames[place], content[str(frames[place])], given[place]) for place in named]
    found = Cameras(torch.cat([c.viewmats for c in own]), torch.cat([c.Ks for c in own]), width, height)
    basis = [i for i, place in enumerate(named) if place < context.num_views]
    chosen = torch.tensor(basis if len(basis) >= 2 else range(len(named)))
    alignment = align_cameras(found[chosen], given[torch.tensor(named)[chosen]], protocol.alignment)
    moved = alignment.similarity.inverse().apply_cameras(given)
    viewmats, Ks = moved.viewmats.clone(), moved.Ks.clone()
    viewmats[named], Ks[named] = found.viewmats, found.Ks
    everything, count = Cameras(viewmats, Ks, width, height), context.num_views
    return everything[:count], everything[count:], alignment


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object: frame number → world_to_camera and intrinsics")
    return content


def _camera(path: Path, frame: int, entry: Any, given: Cameras) -> Cameras:
    """One named camera; ValueError that names file and frame."""
    try:
        pose = torch.tensor(entry["world_to_camera"], dtype=torch.float64)
        if pose.shape == (3, 4):
            pose = torch.cat([pose, pose.new_tensor([[0.0, 0.0, 0.0, 1.0]])])
        K = given.Ks
        if "intrinsics" in entry:
            fx, fy, cx, cy = (float(value) for value in entry["intrinsics"])
            width, height = given.width, given.height
            K = K.new_tensor([[[fx * width, 0, cx * width], [0, fy * height, cy * height], [0, 0, 1]]])
        return Cameras(pose[None].to(given.viewmats), K, given.width, given.height)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: frame {frame}: {type(error).__name__}: {error}") from error
