# SPDX-License-Identifier: Apache-2.0
"""Training on photographs without poses: before the first step, the run's own network gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ..backbones import Backbone
from ..data import SceneError
from ..data.readers import TRANSFORMS
from ..data.registration import photograph_folder, readable_photographs
from ..data.split import MIN_TRAINING_VIEWS
from .predicted_poses import predict_poses
from .published import begin_with_published_weights
from .run import RunSettings
from .weights import open_weights

POSES = "poses"
"""Folder within a run that holds the scene that its network made of photographs, under their folder's name."""
NETWORK_SIZE = 504
"""Longest side of what the network sees where the run's settings leave it open."""


def posed_scene(
    settings: RunSettings, run_folder: Path, device: str = "cpu", say: Callable[[str], None] = print
) -> Path:
    """A scene with poses of the photographs at `settings.data`, of an earlier call or made now.

    It is run_folder/poses/<name>. The poses are those of the network that the run begins with, by one pass. Photographs
    are used where they are.

    Raises:
        SceneError: too few readable photographs, or the folder holds poses of others.
        ValueError: the network predicts no cameras, or its weights cannot be had.
    """
    photographs = photograph_folder(settings.data)
    target = run_folder / POSES / (settings.data.resolve().name or POSES)
    if (target / TRANSFORMS).is_file():
        if _photographs_of(target) != photographs.resolve():
            raise SceneError(f"{target}: holds poses of other photographs than {photographs}; choose another output")
        return target
    names, _ = readable_photographs(photographs)
    if len(names) < MIN_TRAINING_VIEWS:
        raise SceneError(
            f"{photographs}: {len(names)} readable photograph{'s' * (len(names) != 1)} without poses, and at least "
            f"{MIN_TRAINING_VIEWS} are needed"
        )
    backbone = _first_network(settings).to(device)
    size = settings.collection.image_size
    longest = settings.collection.max_size or (NETWORK_SIZE if size is None else max(size))
    found = predict_poses(backbone, settings.data, target, max_size=longest)
    left = f"; {len(names) - found.num_registered} more are left out" if len(names) > found.num_registered else ""
    say(f"{found.num_registered} photographs without poses: the network's are in {found.transforms}{left}")
    return target


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
