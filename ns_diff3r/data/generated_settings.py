# SPDX-License-Identifier: Apache-2.0
"""Settings of the data source named "generated": scenes that are made while they are used, from a seed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..dataclass_state import DefaultsForMissingFields
from .errors import SceneError

GENERATED = "generated"
"""What `--data` is given instead of a folder."""


@dataclass
class GeneratedConfig(DefaultsForMissingFields):
    """Scenes of `--data generated`: scene i is a function of these settings and i."""

    seed: int = 0
    """Of every scene and texture."""
    num_scenes: int = 20_000
    """Different scenes to train on, in turn. Few are kept ready and the rest drawn again when their turn comes."""
    num_evaluation_scenes: int = 8
    """Further scenes, which are held out as a whole; 0: images of training scenes are."""
    num_views: int = 20
    """Cameras of a scene; those that are asked for are drawn."""
    kinds: tuple[str, ...] = ()
    """Kinds of scenes among room, tabletop, outdoors, facade, aerial, clutter; default: all."""
    num_textures: int = 384
    """Textures that scenes take theirs from, about 0.25 MiB each."""
    splats: Path | None = None
    """Folder of trained splats (.ply, .splat, .spz, .sog) that stand in some scenes; mind the licence of each."""
    splat_share: float = 0.3
    """Share of the scenes in which one stands."""


def is_generated(path: str | Path) -> bool:
    """Whether a data path names the generated scenes: no file or folder has that name."""
    return Path(path) == Path(GENERATED) and not Path(path).exists()


def lasting(path: str | Path) -> Path:
    """A data path as a run's settings keep it: absolute, but the name of the generated scenes as it is."""
    return Path(path) if is_generated(path) else Path(os.path.abspath(path))


def check_generated(config: GeneratedConfig) -> None:
    """SceneError that names the setting, if one makes no sense."""
    from .worlds.layouts import LAYOUTS

    for name, least in {
        "seed": 0,
        "num_scenes": 1,
        "num_evaluation_scenes": 0,
        "num_views": 3,
        "num_textures": 1,
    }.items():
        if getattr(config, name) < least:
            raise SceneError(f"generated.{name} must be at least {least}, got {getattr(config, name)}")
    unknown = [kind for kind in config.kinds if kind not in LAYOUTS]
    if unknown:
        raise SceneError(f"generated.kinds: there is no kind {unknown[0]!r}; the kinds are {', '.join(LAYOUTS)}")
    if not 0 <= config.splat_share <= 1:
        raise SceneError(f"generated.splat_share must lie in [0, 1], got {config.splat_share}")
