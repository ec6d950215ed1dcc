# SPDX-License-Identifier: Apache-2.0
"""The trainable network: a backbone that predicts Gaussians, and the head that predicts how far each may be trusted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import Backbone, BackboneConfig, Prediction, UncertaintyHeadConfig
from ..splats import Gaussians, Views
from .published_state import PublishedState
from .stages import GROUP_NAMES
from .unseen_points import with_unseen_points


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """What the network says about one scene.

    Attributes:
        gaussians: θ⁰, N Gaussians in the world of the context cameras: those of the prediction, and after them those
            of sparse points that no view sees.
        prior: λ > 0, group name → [N, 1] (per Gaussian) or the shape of the group's leaf; None if not asked for.
        prediction: the backbone's own result.
    """

    gaussians: Gaussians
    prior: dict[str, Float[Tensor, "N ..."]] | None
    prediction: Prediction


class Diff3RNetwork(PublishedState):
    """Context views → (θ⁰, λ) of one scene."""

    def __init__(self, backbone: Backbone, uncertainty_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.uncertainty_head = uncertainty_head
        self.register_published_hook()

    def forward(self, context: Views, with_prior: bool = True) -> NetworkOutput:
        """Predict the scene that `context` shows; λ only on request (the first stage does without).

        With `context.points`, and a backbone that reads them, a Gaussian is added for each that no view sees.

        Raises:
            ValueError: what the backbone refuses (too few views, no depth range).
        """
        prediction = self.backbone(context)
        prior = self.uncertainty_head(prediction.features) if with_prior else None
        gaussians = prediction.gaussians
        if context.points is not None and self.backbone.uses_points:
            gaussians, prior = with_unseen_points(gaussians, prior, prediction.grid, context)
        return NetworkOutput(gaussians, prior, prediction)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The groups of `GROUP_NAMES`, always all and each parameter in exactly one.

        A group may be empty (a backbone that is nothing but its head, or has no trunk).
        """
        head, trunk = list(self.backbone.gaussian_head_parameters()), list(self.backbone.trunk_parameters())
        ids = {id(parameter) for parameter in (*head, *trunk)}
        rest = [parameter for parameter in self.backbone.parameters() if id(parameter) not in ids]
        return dict(zip(GROUP_NAMES, (rest, trunk, head, list(self.uncertainty_head.parameters())), strict=True))

    def train_only(self, groups: Collection[str]) -> None:
        """Let the parameters of `groups` require gradients, and no others; those that are idle never do."""
        idle = {id(parameter) for parameter in self.backbone.idle_parameters()}
        for name, parameters in self.param_groups().items():
            for parameter in parameters:
                parameter.requires_grad_(name in groups and id(parameter) not in idle)


def build_network(backbone_config: BackboneConfig, head_config: UncertaintyHeadConfig, seed: int = 0) -> Diff3RNetwork:
    """The network on the CPU with weights that depend on `seed` alone; torch's own random state stays as it was.

    `ns-diff3r fit` and `ns-train` build it at different moments of a process, and start equal by this.
    """
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        backbone = backbone_config.setup()
        head = head_config.setup(backbone.feature_dim, backbone.sh_degree)
    finally:
        torch.set_rng_state(state)
    return Diff3RNetwork(backbone, head)
