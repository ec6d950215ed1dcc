# SPDX-License-Identifier: Apache-2.0
"""What a call of `DifferentiableTTO` reports beside its result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from ..splats.frames import Similarity
from .backward.protocol import BackwardInfo
from .inner import Trajectory, TTOStatus


@dataclass(eq=False)
class TTOSolution:
    """Report on one scene. All losses are those of the normalised frame, independent of the world's units."""

    status: TTOStatus
    """How the optimisation ended."""
    loss_curve: list[float]
    """L_in before the first and after every step."""
    image_loss_curve: list[float]
    """Its photometric part."""
    stationarity: float
    """|∇L_in(θ*)| / |∇L_in(θ⁰)|: 0 at a stationary point, where the implicit gradient is right."""
    group_stationarity: dict[str, float]
    """The same per attribute group that moves."""
    frame: Similarity = field(repr=False)
    """World → frame in which the scene was optimised."""
    curvature_scale: dict[str, float] | None
    """D per attribute group, by which λ was multiplied; None without a prior."""
    warnings: list[str] = field(default_factory=list)
    """What the caller should know, in plain words."""
    backward: BackwardInfo | None = None
    """Report of the backward pass, filled in when it runs."""
    anchor_loss: Float[Tensor, ""] | None = field(default=None, repr=False)
    """Mode "metagrad": mean of the outer loss over the anchors, a scalar whose gradient to θ⁰ is that of MetaGrad; to
    be added to the loss. Take it out before reports are collected: it holds a graph."""

    @staticmethod
    def of(
        trajectory: Trajectory, frame: Similarity, scale: dict[str, float] | None, warnings: list[str]
    ) -> TTOSolution:
        """The report on a run; it keeps numbers only, so that it can be collected over a whole training."""
        return TTOSolution(
            status=trajectory.status,
            loss_curve=trajectory.loss_curve,
            image_loss_curve=trajectory.image_loss_curve,
            stationarity=trajectory.stationarity,
            group_stationarity=trajectory.group_stationarity,
            frame=frame,
            curvature_scale=scale,
            warnings=warnings,
        )

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return max(0, len(self.loss_curve) - 1)

    @property
    def image_loss(self) -> float:
        """Photometric part of L_in at the result; NaN if no loss was finite."""
        return self.image_loss_curve[-1] if self.image_loss_curve else math.nan

    @property
    def prior_loss(self) -> float:
        """½ Σ Λ (θ* − θ⁰)²; NaN if no loss was finite."""
        return self.loss_curve[-1] - self.image_loss if self.loss_curve else math.nan

    @property
    def scenes(self) -> tuple[TTOSolution, ...]:
        """The reports of all scenes: this one."""
        return (self,)


@dataclass(frozen=True, eq=False)
class TTOBatchSolution:
    """Reports on a list of scenes, and what they come to together (the worst of states, the mean of losses)."""

    scenes: tuple[TTOSolution, ...]
    """One report per scene."""

    @property
    def status(self) -> TTOStatus:
        """DIVERGED if any scene did, STATIONARY if all are, else COMPLETED."""
        states = {scene.status for scene in self.scenes}
        if TTOStatus.DIVERGED in states:
            return TTOStatus.DIVERGED
        return TTOStatus.STATIONARY if states == {TTOStatus.STATIONARY} else TTOStatus.COMPLETED

    @property
    def num_steps(self) -> int:
        """Most steps that any scene took."""
        return max(scene.num_steps for scene in self.scenes)

    @property
    def loss_curve(self) -> list[float]:
        """Mean of the scenes' L_in, up to the end of the shortest run."""
        return [sum(losses) / len(losses) for losses in zip(*(scene.loss_curve for scene in self.scenes), strict=False)]

    @property
    def image_loss(self) -> float:
        """Mean photometric loss at the results."""
        return sum(scene.image_loss for scene in self.scenes) / len(self.scenes)

    @property
    def prior_loss(self) -> float:
        """Mean of ½ Σ Λ (θ* − θ⁰)²."""
        return sum(scene.prior_loss for scene in self.scenes) / len(self.scenes)

    @property
    def stationarity(self) -> float:
        """Largest ratio of any scene; NaN if one is."""
        ratios = [scene.stationarity for scene in self.scenes]
        return math.nan if any(map(math.isnan, ratios)) else max(ratios)

    @property
    def group_stationarity(self) -> dict[str, float]:
        """Largest ratio of any scene, per group."""
        names = self.scenes[0].group_stationarity
        return {name: max(scene.group_stationarity[name] for scene in self.scenes) for name in names}

    @property
    def warnings(self) -> list[str]:
        """Those of all scenes, each with the scene's number in the list."""
        return [f"scene {i}: {text}" for i, scene in enumerate(self.scenes) for text in scene.warnings]

    @property
    def backward(self) -> BackwardInfo | None:
        """The scene whose solve ended with the largest residual; None until a backward pass has run."""
        reports = [scene.backward for scene in self.scenes if scene.backward is not None]
        return max(reports, key=lambda info: _badness(info.residual), default=None)


def _badness(residual: float | None) -> float:
    return math.inf if residual is None or math.isnan(residual) else residual
