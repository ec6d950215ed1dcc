# SPDX-License-Identifier: Apache-2.0
"""Settings that runs of the official networks begin with, the same for `ns-train` and `ns-diff3r fit`.

Both begin with published weights, so that there is nothing for stage 1 to do. (From random ones, with the backbone's
checkpoint None, give it steps: training.stages.pretrain_fraction.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..backbones import DepthAnything3Config, DepthSplatConfig, PretrainedConfig
from ..data import CollectionConfig, SamplerConfig
from .config import GroupOptimizer
from .stages import StageConfig

FINE_TUNING_STEPS = 5_000


@dataclass(frozen=True)
class OfficialRun:
    """What differs from the settings' own defaults.

    Attributes:
        network: the backbone with its published weights.
        max_size: longest side of the views.
        num_context: context views of a scene.
        changes: name → value of settings of training.
    """

    network: PretrainedConfig
    max_size: int
    num_context: int
    changes: Mapping[str, Any]

    def backbone(self) -> Any:
        """Settings of the network, new with every call, as those that follow."""
        return replace(self.network)

    def collection(self) -> CollectionConfig:
        """Which scenes and images."""
        return CollectionConfig(max_size=self.max_size)

    def sampler(self) -> SamplerConfig:
        """Which views of a step."""
        return SamplerConfig(num_context=self.num_context)


DEPTHSPLAT = OfficialRun(
    DepthSplatConfig(checkpoint="official"),
    max_size=256,
    num_context=2,
    changes={"stages": StageConfig(pretrain_fraction=0.0), "tto_steps_eval": 50},
)
DA3 = OfficialRun(
    DepthAnything3Config(checkpoint="official"),
    max_size=252,
    num_context=4,
    changes={
        "stages": StageConfig(pretrain_fraction=0.0),
        "tto_steps_eval": 300,
        # Most of the network is trunk, and its own authors publish no rate: a tenth, as AnySplat has for the like.
        "trunk": GroupOptimizer(pretrain_rate=5e-5, bilevel_rate=2e-6),
    },
)
