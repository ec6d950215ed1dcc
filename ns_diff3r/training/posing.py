# SPDX-License-Identifier: Apache-2.0
"""Training on photographs without poses: before the first step, the run's own network gives them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

from ..backbones import Backbone
from ..data import SceneError, SceneWarning
from ..data.readers import TRANSFORMS
from ..data.registration import photograph_folder, readable_photographs
from ..data.split import MIN_TRAINING_VIEWS
from ..data.unposed import unposed_folders
from .predicted_poses import predict_poses
from .published import begin_with_published_weights
from .run import RunSettings
from .weights import open_weights

POSES = "poses"
"""Folder within a run that holds what its network made of photographs, under their folder's name."""
NETWORK_SIZE = 504
"""Longest side of what the network sees where the run's settings leave it open."""


def posed_scenes(
    settings: RunSettings, run_folder: Path, device: str = "cpu", say: Callable[[str], None] = print
) -> Path:
    """The photographs at `settings.data` as a scene with poses, or as a folder of such scenes; of an earlier call or
    made now.

    It is run_folder/poses/<name>. The poses are those of the network that the run begins with, by one pass per folder
    of photographs (`data.unposed.unposed_folders`). Photographs are used where they are. Of several folders, those with
    too few readable photographs are left out with a warning.

    Raises:
        SceneError: no folder with enough readable photographs, or the run holds poses of others.
        ValueError: the network predicts no cameras, or its weights cannot be had.
    """
    target = run_folder / POSES / (settings.data.resolve().name or POSES)
    folders = {target / name: photograph_folder(folder) for name, folder in unposed_folders(settings.data).items()}
    missing = {scene: folder for scene, folder in folders.items() if not _has_poses_of(scene, folder)}
    enough = {scene: names for scene, folder in missing.items() if (names := _readable(folder, len(folders) == 1))}
    if len(missing) == len(folders) and not enough:
        raise SceneError(
            f"{settings.data}: in none of its {len(folders)} folders of photographs without poses there are at least "
            f"{MIN_TRAINING_VIEWS} that can be read"
        )
    backbone = _first_network(settings).to(device) if enough else None
    size = settings.collection.image_size
    longest = settings.collection.max_size or (NETWORK_SIZE if size is None else max(size))
    for scene, names in enough.items():
        assert backbone is not None
        found = predict_poses(backbone, missing[scene], scene, max_size=longest)
        left = f"; {len(names) - found.num_registered} more are left out" if len(names) > found.num_registered else ""
        say(f"{found.num_registered} photographs without poses: the network's are in {found.transforms}{left}")
    return target


def _has_poses_of(scene: Path, photographs: Path) -> bool:
    """Whether a scene has been made of these photographs; SceneError if of others."""
    if not (scene / TRANSFORMS).is_file():
        return False
    if _photographs_of(scene) != photographs.resolve():
        raise SceneError(f"{scene}: holds poses of other photographs than {photographs}; choose another output")
    return True


def _readable(photographs: Path, needed: bool) -> list[str]:
    """Names of the readable photographs; none, with a warning, where they are too few (SceneError where `needed`)."""
    names, _ = readable_photographs(photographs)
    if len(names) >= MIN_TRAINING_VIEWS:
        return names
    text = (
        f"{photographs}: {len(names)} readable photograph{'s' * (len(names) != 1)} without poses, and at least "
        f"{MIN_TRAINING_VIEWS} are needed"
    )
    if needed:
        raise SceneError(text)
    warnings.warn(f"scene left out: {text}", SceneWarning, stacklevel=3)
    return []


def _first_network(settings: RunSettings) -> Backbone:
    """The backbone with the weights that the run begins with."""
    if settings.weights is not None:
        return open_weights(settings.weights).module.network.backbone
    network = settings.module().network
    begin_with_published_weights(network, settings.training, lambda text: None)  # the run itself will say it
    return network.backbone


def _photographs_of(scene: Path) -> Path | None:
    """The folder that the photographs of a written scene are in; None if its file is broken."""
    try:
        frames = json.loads((scene / TRANSFORMS).read_text(encoding="utf-8"))["frames"]
        return (scene / frames[0]["file_path"]).parent.resolve()
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
