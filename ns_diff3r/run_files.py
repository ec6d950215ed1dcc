# SPDX-License-Identifier: Apache-2.0
"""A nerfstudio run that no training made: a trained network, put on another scene."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .data import CollectionConfig, SamplerConfig
from .dataparser import Diff3RDataParserConfig
from .training.checkpoint import save_checkpoint
from .training.config import TrainingConfig
from .training.run import write_text
from .training.settings import to_plain
from .training.weights import PIPELINE_PREFIX, SETTINGS_FILE, TrainedNetwork


def write_run(
    network: TrainedNetwork,
    scene: Path,
    output: Path,
    *,
    name: str,
    collection: CollectionConfig,
    sampler: SamplerConfig,
    tto_steps: int | None,
) -> Path:
    """A nerfstudio run of a trained network on another scene; ns-viewer, ns-render, ns-eval and ns-export open it, and
    predict and fit the scene when they do.

    Args:
        network: as `open_weights` gives it.
        scene: folder or transforms.json.
        output: nerfstudio's output folder; the run is output/<name>/diff3r/<time>.
        name: of the scene.
        collection, sampler: image size, split and context views there.
        tto_steps: of test-time optimisation; None: as the network was trained for.

    Returns:
        The run's config.yml.

    Raises:
        OSError: a file cannot be written.
    """
    from .configs import methods
    from .model import RunTrainingConfig

    template = methods.diff3r.config
    settings = network.settings
    steps = settings.training.tto_steps_eval if tto_steps is None else tto_steps
    values: dict[str, Any] = {f.name: getattr(settings.training, f.name) for f in fields(TrainingConfig)} | {
        "tto_steps_eval": steps
    }
    data = replace(
        template.pipeline.datamanager,
        dataparser=Diff3RDataParserConfig(data=scene),
        data=scene,
        collection=collection,
        sampler=sampler,
    )
    model = replace(
        template.pipeline.model,
        backbone=settings.backbone,
        uncertainty_head=settings.uncertainty,
        training=RunTrainingConfig(**values),
    )
    config = replace(
        template,
        output_dir=output,
        experiment_name=name,
        data=scene,
        max_num_iterations=settings.training.num_steps,
        pipeline=replace(template.pipeline, datamanager=data, model=model),
    )
    config.set_timestamp()
    state = {f"{PIPELINE_PREFIX}{name}": value for name, value in network.module.state_dict().items()}
    save_checkpoint(config.get_checkpoint_dir(), network.step, {"step": network.step, "pipeline": state})
    config.save_config()
    own = replace(settings, data=scene, collection=collection, sampler=sampler, training=TrainingConfig(**values))
    write_text(config.get_base_dir() / SETTINGS_FILE, json.dumps(to_plain(own), indent=1) + "\n")
    return config.get_base_dir() / "config.yml"
