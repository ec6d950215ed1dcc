# SPDX-License-Identifier: Apache-2.0
"""The photometric part of one scene's inner problem, as a function of flat parameter vectors.

A problem is asked for a linearisation of the renderer and of the loss at the iterate of a step. `SceneProblem` renders;
`ReplayedProblem` evaluates a recorded run at other parameters with the decisions of the recorded linearisations frozen
(depth order, tile lists, and with freeze="pairs" everything else that jumps; L1 signs), so that differences of whole
trajectories are differences of a smooth function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..rasterization.config import RasterizationConfig
from ..rasterization.protocol import GaussianBlocks, Linearization, Rendering, Weights
from ..splats import Cameras, Gaussians
from .image_loss import ImageObjective, LossLinearization


class Evaluation:
    """The renderer and the loss around one point."""

    def __init__(self, linearization: Linearization, loss: LossLinearization) -> None:
        self.linearization = linearization
        self.loss = loss


class InnerProblem(Protocol):
    """Linearisations of the renderer and of the photometric loss along a trajectory."""

    @property
    def num_residuals(self) -> int:
        """n, by which the loss is averaged."""
        ...

    def evaluate(self, gaussians: Gaussians, step: int) -> Evaluation:
        """Around `gaussians`, the iterate from which step number `step` starts."""
        ...


@dataclass(frozen=True, eq=False)
class SceneProblem:
    """Photographs of a scene and the renderer that is to reproduce them."""

    objective: ImageObjective
    linearize: Callable[[Gaussians], Linearization]
    """Gaussians → linearised renderer of the views of `objective`."""

    @property
    def num_residuals(self) -> int:
        """n = views × pixels × 3."""
        return self.objective.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int = 0) -> Evaluation:
        """Render and linearise at `gaussians`; every decision of the renderer is taken anew."""
        linearization = self.linearize(gaussians)
        return Evaluation(linearization, self.objective.linearize(linearization.rgb))


@dataclass(frozen=True, eq=False)
class ReplayedProblem:
    """A recorded trajectory as a function of its starting point and prior: step k uses the decisions of record k."""

    record: Sequence[Evaluation]

    @property
    def num_residuals(self) -> int:
        """n of the recorded loss."""
        return self.record[0].loss.objective.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int) -> Evaluation:
        """The recorded frozen renderer and loss, around other parameters; IndexError beyond the recorded steps."""
        recorded = self.record[step]
        linearization = frozen_at(recorded.linearization, gaussians)
        return Evaluation(linearization, recorded.loss.at(linearization.rgb))


def frozen_at(linearization: Linearization, gaussians: Gaussians) -> Linearization:
    """The renderer around other Gaussians with the decisions of `linearization`, by the backend itself if it can."""
    at = getattr(linearization, "at", None)
    return at(gaussians) if at is not None else FrozenLinearization(linearization, gaussians)


class FrozenLinearization:
    """The renderer around θ' with the decisions that a linearisation took at θ.

    Image and vjp are exact at θ', through `Linearization.render`. The Gauss-Newton products are those at θ.
    """

    def __init__(self, base: Linearization, gaussians: Gaussians) -> None:
        self.base = base
        self.gaussians = gaussians.detach()
        with torch.enable_grad():
            self._leaves = self.gaussians.map(lambda leaf: leaf.detach().requires_grad_())
            self._rgb = base.render(self._leaves).rgb

    @property
    def cameras(self) -> Cameras:
        """The views."""
        return self.base.cameras

    @property
    def config(self) -> RasterizationConfig:
        """The semantics."""
        return self.base.config

    @property
    def rgb(self) -> Float[Tensor, "V H W 3"]:
        """R(θ')."""
        return self._rgb.detach()

    @property
    def visible(self) -> Bool[Tensor, " N"]:
        """As at θ."""
        return self.base.visible

    def render(self, gaussians: Gaussians) -> Rendering:
        """The frozen renderer elsewhere."""
        return self.base.render(gaussians)

    def vjp(self, u: Float[Tensor, "V H W 3"]) -> Gaussians:
        """J(θ')ᵀu."""
        leaves = self._leaves.leaves()
        gradients = torch.autograd.grad(self._rgb, leaves, u, retain_graph=True, allow_unused=True)
        return Gaussians(*(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)))

    def jvp(self, v: Gaussians) -> Float[Tensor, "V H W 3"]:
        """J(θ) v."""
        return self.base.jvp(v)

    def vjp_cameras(self, u: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V 6"]:
        """At θ."""
        return self.base.vjp_cameras(u)

    def gauss_newton(self, v: Gaussians, weights: Weights) -> Gaussians:
        """J(θ)ᵀ W J(θ) v."""
        return self.base.gauss_newton(v, weights)

    def diagonal(self, weights: Weights) -> Gaussians:
        """At θ."""
        return self.base.diagonal(weights)

    def blocks(self, weights: Weights) -> GaussianBlocks:
        """At θ."""
        return self.base.blocks(weights)

    def vjp_tangent(self, v: Gaussians, u: Float[Tensor, "V H W 3"], du: Float[Tensor, "V H W 3"]) -> Gaussians:
        """At θ."""
        return self.base.vjp_tangent(v, u, du)
