# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r fit depthsplat` and `ns-diff3r fit da3`: the official networks, without nerfstudio."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..backbones import BackboneConfig, DepthAnything3Config
from ..data.collection import CollectionConfig
from ..data.generated_settings import lasting
from ..data.sampler import SamplerConfig
from ..training.config import TrainingConfig
from ..training.official import DA3, DEPTHSPLAT, FINE_TUNING_STEPS, OfficialRun
from .devices import chosen_device
from .fit import Fit

if TYPE_CHECKING:
    from ..training.run import RunSettings


def _training(run: OfficialRun) -> TrainingConfig:
    return TrainingConfig(num_steps=FINE_TUNING_STEPS, **run.changes)


@dataclass
class FitDepthSplat(Fit):
    """Train DepthSplat from its published weights through test-time optimisation, and evaluate it.

    Does the steps of `ns-train diff3r-depthsplat` in a plain loop. Interrupted or killed, the same command continues
    the run. Size by --backbone.size; --backbone.checkpoint None begins with random weights.
    """

    backbone: BackboneConfig = field(default_factory=DEPTHSPLAT.backbone)
    """The network that predicts Gaussians."""
    training: TrainingConfig = field(default_factory=lambda: _training(DEPTHSPLAT))
    """Length, stages, losses, optimisers, test-time optimisation."""
    collection: CollectionConfig = field(default_factory=DEPTHSPLAT.collection)
    """Scenes, split and image size."""
    sampler: SamplerConfig = field(default_factory=DEPTHSPLAT.sampler)
    """Choice of context and target views."""


@dataclass
class FitDepthAnything3(Fit):
    """Train Depth Anything 3 from its published weights through test-time optimisation, and evaluate it.

    Does the steps of `ns-train diff3r-da3` in a plain loop. Interrupted or killed, the same command continues the run.
    Size by --backbone.size; --backbone.checkpoint None begins with random weights. --data may be photographs without
    poses, or several folders of them: one pass of the network each gives them, in output/poses.
    """

    backbone: DepthAnything3Config = field(default_factory=DA3.backbone)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The network that predicts Gaussians."""
    training: TrainingConfig = field(default_factory=lambda: _training(DA3))
    """Length, stages, losses, optimisers, test-time optimisation."""
    collection: CollectionConfig = field(default_factory=DA3.collection)
    """Scenes, split and image size."""
    sampler: SamplerConfig = field(default_factory=DA3.sampler)
    """Choice of context and target views."""

    def settings(self) -> RunSettings:
        """What determines the run; of photographs without poses, what the network makes of them first."""
        from ..data.unposed import unposed_folders
        from ..training.posing import posed_scenes

        given = super().settings()
        if self.backbone.poses != "predicted" or not unposed_folders(self.data):
            return given
        return replace(given, data=lasting(posed_scenes(given, self.output, chosen_device(self.device))))
