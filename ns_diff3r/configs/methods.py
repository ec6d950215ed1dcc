# SPDX-License-Identifier: Apache-2.0
"""Methods that nerfstudio finds by entry point (group nerfstudio.method_configs).

nerfstudio imports this in every one of its commands: nothing here loads the extension, builds a network or reads
weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from ..backbones import tiny_config
from ..data import CollectionConfig, SamplerConfig
from ..datamanager import Diff3RDataManagerConfig
from ..model import Diff3RModelConfig, RunTrainingConfig
from ..pipeline import Diff3RPipelineConfig
from ..solver import BackwardMode, PCGConfig, TTOConfig
from ..trainer import Diff3RTrainerConfig
from ..training.official import DA3, DEPTHSPLAT, FINE_TUNING_STEPS, OfficialRun
from ..training.stages import StageConfig

FULL_STEPS = 20_000
TINY_STEPS = 200


def full_config(
    method_name: str, training: RunTrainingConfig | None = None, weights: Path | None = Path("diff3r")
) -> Diff3RTrainerConfig:
    """A run of full length; the methods that differ in `training` alone are to be compared."""
    return Diff3RTrainerConfig(
        method_name=method_name,
        weights=weights,
        max_num_iterations=FULL_STEPS,
        steps_per_save=500,
        steps_per_eval_batch=250,
        steps_per_eval_image=250,
        steps_per_eval_all_images=5000,
        pipeline=Diff3RPipelineConfig(
            datamanager=Diff3RDataManagerConfig(collection=CollectionConfig(max_size=256)),
            model=Diff3RModelConfig(training=training or RunTrainingConfig()),
        ),
        viewer=_viewer(),
    )


def _viewer() -> ViewerConfig:
    return ViewerConfig(num_rays_per_chunk=1 << 15)


def through(mode: BackwardMode) -> RunTrainingConfig:
    """The default training with another backward mode."""
    training = RunTrainingConfig()
    return replace(training, tto=replace(training.tto, backward_mode=mode))


diff3r = MethodSpecification(
    config=full_config("diff3r"),
    description="Diff3R: feed-forward Gaussian splatting, trained through test-time optimisation (both stages).",
)

diff3r_adjoint = MethodSpecification(
    config=full_config("diff3r-adjoint", through(BackwardMode.ADJOINT)),
    description="diff3r with the exact gradient of the test-time optimisation: back through Adam's own recurrence; "
    "the last ten steps alone (backward mode TRUNCATED) cost less and teach as well (docs/training_data.md).",
)

diff3r_metagrad = MethodSpecification(
    config=full_config("diff3r-metagrad", through(BackwardMode.METAGRAD)),
    description="diff3r trained as ForeSplat is: first-order gradients at anchors along 50 to 500 inner steps.",
)

diff3r_pretrain = MethodSpecification(
    config=full_config("diff3r-pretrain", RunTrainingConfig(stages=StageConfig(pretrain_fraction=1.0)), weights=None),
    description="Stage 1 of diff3r alone: the feed-forward network, without test-time optimisation.",
)

diff3r_tiny = MethodSpecification(
    config=Diff3RTrainerConfig(
        method_name="diff3r-tiny",
        weights=Path("diff3r-tiny"),
        max_num_iterations=TINY_STEPS,
        steps_per_save=50,
        steps_per_eval_batch=50,
        steps_per_eval_image=50,
        steps_per_eval_all_images=100_000,
        pipeline=Diff3RPipelineConfig(
            datamanager=Diff3RDataManagerConfig(
                collection=CollectionConfig(max_size=96),
                sampler=SamplerConfig(num_context=2, num_targets=2, warmup_steps=TINY_STEPS // 2),
            ),
            model=Diff3RModelConfig(
                backbone=tiny_config(),
                # After twenty steps the gradient is an approximation anyway: a rough solve does as well as a long one.
                # The learning rates are those that its weights were trained with.
                training=RunTrainingConfig(
                    tto=TTOConfig(num_steps=20, pcg=PCGConfig(tolerance=1e-2, max_iterations=30)),
                    tto_rate_factor=16.0,
                    tto_steps_eval=50,
                ),
            ),
            refresh_every=25,
        ),
        viewer=_viewer(),
    ),
    description="A small diff3r for a CPU: learns something about one scene in minutes.",
)


def official_config(method_name: str, run: OfficialRun) -> Diff3RTrainerConfig:
    """A run that begins with published weights."""
    return Diff3RTrainerConfig(
        method_name=method_name,
        max_num_iterations=FINE_TUNING_STEPS,
        steps_per_save=500,
        steps_per_eval_batch=250,
        steps_per_eval_image=250,
        steps_per_eval_all_images=5000,
        pipeline=Diff3RPipelineConfig(
            datamanager=Diff3RDataManagerConfig(collection=run.collection(), sampler=run.sampler()),
            model=Diff3RModelConfig(backbone=run.backbone(), training=RunTrainingConfig(**run.changes)),
            num_context_shown=run.num_context,
        ),
        viewer=_viewer(),
    )


diff3r_depthsplat = MethodSpecification(
    config=official_config("diff3r-depthsplat", DEPTHSPLAT),
    description="Diff3R from DepthSplat's published weights: known poses; --pipeline.model.backbone.size small, base, "
    "large.",
)

diff3r_da3 = MethodSpecification(
    config=official_config("diff3r-da3", DA3),
    description="Diff3R from Depth Anything 3's published weights: the network predicts the poses of the context; "
    "--data may be photographs without poses.",
)
