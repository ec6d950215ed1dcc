# SPDX-License-Identifier: Apache-2.0
"""The uncertainty head: λ, how strongly test-time optimisation holds each Gaussian at its prediction (design §2).

"A small MLP to predict Gaussian parameter regularizer from the intermediate features" (Diff3R). λ is positive and
bounded, and equals one stated number everywhere before training, so that optimisation then has a global prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..dataclass_state import DefaultsForMissingFields
from ..splats import GROUPS
from ..splats.flat_layout import leaf_shapes

Granularity = Literal["gaussian", "parameter", "group", "uniform"]


@dataclass
class UncertaintyHeadConfig(DefaultsForMissingFields):
    """Settings of the uncertainty head."""

    _target: type[UncertaintyHead] = field(default_factory=lambda: UncertaintyHead)
    granularity: Granularity = "gaussian"
    """One λ per Gaussian and attribute group, or one per parameter; or, to compare with, numbers that are learned but
    the same for all Gaussians: one per attribute group ("group"), or a single one ("uniform")."""
    initial: float = 1.0
    """λ of every parameter before training."""
    minimum: float = 1e-3
    """Smallest λ: nearly free."""
    maximum: float = 1e3
    """Largest λ: nearly fixed."""
    hidden_dim: int = 32
    """Width of the hidden layers."""
    num_layers: int = 2
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        if self.granularity not in get_args(Granularity):
            raise ValueError(
                f"UncertaintyHeadConfig.granularity is one of {get_args(Granularity)}, not {self.granularity!r}"
            )
        if not 0.0 < self.minimum < self.initial < self.maximum < float("inf"):
            raise ValueError(
                "UncertaintyHeadConfig: 0 < minimum < initial < maximum is required, not "
                f"{self.minimum}, {self.initial}, {self.maximum}"
            )
        if self.hidden_dim < 1 or self.num_layers < 0:
            raise ValueError("UncertaintyHeadConfig: hidden_dim must be positive and num_layers not negative")

    def setup(self, feature_dim: int, sh_degree: int) -> UncertaintyHead:
        """The head for a backbone's features."""
        return self._target(self, feature_dim, sh_degree)


class UncertaintyHead(nn.Module):
    """Features of Gaussians → λ of their parameters.

    log λ = log minimum + (log maximum − log minimum)·sigmoid(raw + offset); raw = 0 gives `initial`. Numbers that are
    the same for all Gaussians come from the same layers, which then see zeros: weights of any granularity but
    "parameter" begin a run of any other.
    """

    def __init__(self, config: UncertaintyHeadConfig, feature_dim: int, sh_degree: int) -> None:
        super().__init__()
        self.config = config
        self.feature_dim, self.sh_degree = feature_dim, sh_degree
        widths = {name: math.prod(shape[1:]) for name, shape in leaf_shapes(1, sh_degree).items()}
        self.widths = widths if config.granularity == "parameter" else dict.fromkeys(GROUPS, 1)
        layers: list[nn.Module] = [nn.LayerNorm(feature_dim)]
        incoming = feature_dim
        for _ in range(config.num_layers):
            layers += [nn.Linear(incoming, config.hidden_dim), nn.SiLU()]
            incoming = config.hidden_dim
        self.last = nn.Linear(incoming, sum(self.widths.values()))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.layers = nn.Sequential(*layers)
        self.log_minimum = math.log(config.minimum)
        self.log_range = math.log(config.maximum) - self.log_minimum
        position = (math.log(config.initial) - self.log_minimum) / self.log_range
        self.offset = math.log(position / (1 - position))

    def forward(self, features: Float[Tensor, "N F"]) -> dict[str, Tensor]:
        """λ as `DifferentiableTTO` takes it: group → [N, 1], or the group's own shape if one per parameter.

        In every group minimum ≤ λ ≤ maximum; differentiable in the features and the weights.

        Raises:
            ValueError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise ValueError(f"UncertaintyHead needs features [N, {self.feature_dim}], got {list(features.shape)}")
        seen = features.to(self.last.weight.dtype)
        if self.config.granularity in ("group", "uniform"):
            seen = torch.zeros_like(seen[:1])
        raw = self.last(self.layers(seen))
        if self.config.granularity == "uniform":
            raw = raw.mean(1, keepdim=True).expand_as(raw)
        raw = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw  # autocast
        strength = (self.log_minimum + self.log_range * (raw + self.offset).sigmoid()).exp()
        parts = dict(zip(self.widths, strength.split(list(self.widths.values()), dim=1), strict=True))
        if self.config.granularity != "parameter":
            return {name: part.expand(len(features), 1) for name, part in parts.items()}
        shapes = leaf_shapes(len(features), self.sh_degree)
        return {name: part.reshape(shapes[name]) for name, part in parts.items()}
