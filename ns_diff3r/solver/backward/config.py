# SPDX-License-Identifier: Apache-2.0
"""Settings of the backward modes, beside the mode itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...dataclass_state import DefaultsForMissingFields

HessianKind = Literal["exact", "finite_difference", "gauss_newton"]
TrajectoryKind = Literal["snapshots", "recomputation"]


@dataclass(frozen=True)
class MetaGradConfig(DefaultsForMissingFields):
    """Mode "metagrad": where the optimisation is stopped, and where the outer loss is taken."""

    stride: int = 40
    """Every so many inner steps the iterate is an anchor."""
    min_steps: int = 50
    """In training the number of inner steps is random; the smallest."""
    max_steps: int = 500
    """The largest number of inner steps in training; both 0: as many as `TTOConfig.num_steps` says."""
    include_start: bool = False
    """Whether the initialisation is an anchor too."""
    zero_shot_weight: float = 0.0
    """Share of the loss of the initialisation itself in the training loss, in [0, 1]; the anchors have the rest."""
    anchor_views: Literal["target", "context"] = "target"
    """Views on which training takes the loss of the anchors."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"MetaGradConfig.stride must be at least 1, not {self.stride}")
        if not 0 <= self.min_steps <= self.max_steps:
            raise ValueError(
                f"MetaGradConfig: min_steps {self.min_steps} and max_steps {self.max_steps} must not be negative, and "
                "in this order"
            )
        if not 0.0 <= self.zero_shot_weight <= 1.0:
            raise ValueError(f"MetaGradConfig.zero_shot_weight must lie in [0, 1], not {self.zero_shot_weight}")
        if self.anchor_views not in ("target", "context"):
            raise ValueError(f'MetaGradConfig.anchor_views must be "target" or "context", not {self.anchor_views!r}')

    @property
    def random_horizon(self) -> bool:
        """Whether training draws the number of inner steps."""
        return self.max_steps > 0


@dataclass(frozen=True)
class BackwardConfig(DefaultsForMissingFields):
    """How the mode of `TTOConfig.backward_mode` does its work."""

    hessian: HessianKind = "exact"
    """Products of "adjoint" and "truncated" with the Hessian of the photometric loss: "exact" by forward mode over the
    vjp, "finite_difference" of two inner gradients with everything that jumps frozen, or "gauss_newton", which leaves
    out the curvature of the renderer."""
    trajectory: TrajectoryKind = "snapshots"
    """Where "adjoint" and "truncated" have the iterates from: "snapshots" of every step (four vectors of the size of
    the parameters), or "recomputation" from about sqrt(steps) of them, for one more forward optimisation."""
    num_iterations: int = 10
    """Inner steps, counted from the last, through which "truncated" goes back."""
    difference_step: float = 1.0
    """Largest change of a parameter in a "finite_difference", in learning rates of its group."""
    metagrad: MetaGradConfig = field(default_factory=MetaGradConfig)
    """Of mode "metagrad"."""

    def __post_init__(self) -> None:
        if self.hessian not in ("exact", "finite_difference", "gauss_newton"):
            raise ValueError(
                f'BackwardConfig.hessian must be "exact", "finite_difference" or "gauss_newton", not {self.hessian!r}'
            )
        if self.trajectory not in ("snapshots", "recomputation"):
            raise ValueError(
                f'BackwardConfig.trajectory must be "snapshots" or "recomputation", not {self.trajectory!r}'
            )
        if self.num_iterations < 0:
            raise ValueError(f"BackwardConfig.num_iterations must not be negative, not {self.num_iterations}")
        if not 0.0 < self.difference_step < float("inf"):
            raise ValueError(f"BackwardConfig.difference_step must be positive, not {self.difference_step}")
