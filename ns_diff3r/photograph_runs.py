# SPDX-License-Identifier: Apache-2.0
"""`ns-train diff3r-da3 --data PHOTOGRAPHS`: folders without poses become scenes within the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .backbones import DepthAnything3Config
from .compat import resolve_device_type
from .data.generated_settings import lasting
from .data.unposed import unposed_folders
from .dataparser import Diff3RDataParserConfig
from .run_checks import say, warnings_on_console
from .training.posing import POSES, posed_scenes
from .training.run import RunSettings

if TYPE_CHECKING:
    from .trainer import Diff3RTrainerConfig


def pose_photographs(config: Diff3RTrainerConfig) -> None:
    """Replace photographs without poses, as the config's data, by the scenes that its network makes of them.

    They are in <run>/poses, and config.yml names them, so that ns-eval, ns-viewer, ns-render and ns-export read them. A
    run that is continued takes the poses of the run that it continues. Other data, other dataparsers and networks that
    predict no poses are left as they are.

    Raises:
        SceneError, ValueError: as `posed_scenes`.
    """
    data, model = config.pipeline.datamanager, config.pipeline.model
    path = data.data or data.dataparser.data
    predicts = isinstance(model.backbone, DepthAnything3Config) and model.backbone.poses == "predicted"
    if not predicts or not isinstance(data.dataparser, Diff3RDataParserConfig) or not unposed_folders(path):
        return
    settings = RunSettings(
        data=lasting(path),
        backbone=model.backbone,
        uncertainty=model.uncertainty_head,
        collection=data.collection,
        sampler=data.sampler,
        training=model.training,
        weights=config.weights,
    )
    folder = _continued(config) or config.get_base_dir()
    with warnings_on_console():
        scene = posed_scenes(settings, folder, resolve_device_type(config.machine.device_type), say)
    config.data = data.data = data.dataparser.data = lasting(scene)


def _continued(config: Diff3RTrainerConfig) -> Path | None:
    """Folder of the run whose checkpoint is continued, if it has poses."""
    checkpoints = config.load_dir or (config.load_checkpoint and config.load_checkpoint.parent)
    run = checkpoints.parent if checkpoints else None
    return run if run is not None and (run / POSES).is_dir() else None
