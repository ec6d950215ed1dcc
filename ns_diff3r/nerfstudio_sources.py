# SPDX-License-Identifier: Apache-2.0
"""Sources of a mixture that dataparsers of nerfstudio read."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

from .data import CollectionConfig, Scene, SceneCollection, SceneError, SceneWarning
from .data.mixture import SourceConfig
from .nerfstudio_scenes import scene_from_dataparser

WILDCARDS = "*?["


def open_with_dataparser(source: SourceConfig, config: CollectionConfig) -> SceneCollection:
    """The scene at the source's path, or one for every folder that matches its wildcards; all are listed at once.

    Of several, those that the dataparser cannot read are left out with a warning, as long as one is left.

    Raises:
        SceneError: no such dataparser, setting or folder, or no scene that can be used.
    """
    template = _template(source)
    scenes: list[Scene] = []
    reasons: list[SceneError] = []
    paths = _paths(source.path)
    for path in paths:
        try:
            own = deepcopy(template)
            own.data = path
            scenes.append(scene_from_dataparser(own.setup())[0])
        except SceneError as error:
            reasons.append(error)
    if not scenes:
        raise reasons[0]
    for reason in reasons:
        warnings.warn(f"scene left out: {reason}", SceneWarning, stacklevel=2)
    return SceneCollection.from_scenes(scenes, config)


def _template(source: SourceConfig) -> Any:
    """The dataparser's config with the source's options."""
    # Not at the top: nerfstudio imports our own dataparser while it makes this list.
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    from .dataparser import Diff3RDataParserConfig

    own = [name for name, config in all_dataparsers.items() if isinstance(config, Diff3RDataParserConfig)]
    known = {name: config for name, config in all_dataparsers.items() if name not in own}
    if source.dataparser in own:
        raise SceneError("dataparser: leave it out for what ns-diff3r reads itself")
    if source.dataparser not in known:
        raise SceneError(f"dataparser: there is no {source.dataparser!r}; there are {', '.join(known)}")
    config = deepcopy(known[source.dataparser])
    names = [f.name for f in fields(config) if not f.name.startswith("_") and f.name != "data"]
    for name, value in source.options.items():
        if name not in names:
            raise SceneError(f"options: {source.dataparser} has no setting {name!r}; it has {', '.join(names)}")
        if isinstance(getattr(config, name), Path):
            value = Path(str(value))
        setattr(config, name, tuple(value) if isinstance(value, list) else value)
    return config


def _paths(path: Path) -> list[Path]:
    if not any(sign in path.name for sign in WILDCARDS):
        if not path.exists():
            raise SceneError(f"{path}: no such file or folder")
        return [path]
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise SceneError(f"{path}: nothing there matches")
    return found
