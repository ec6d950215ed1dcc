# SPDX-License-Identifier: Apache-2.0
"""Target-pose optimisation: cameras move until frozen Gaussians, drawn through them, look like their photographs.

Pose-free evaluation needs it: a predicted world agrees with the given one up to errors of the predicted poses, which
would otherwise count as errors of the picture.

A camera turns about the point in front of it at the median depth, not about its centre: pans and sideways steps look
alike there, and descent would creep along the valley between them. (From 5° and a tenth of the depth, four real scenes
end at 0.05° to 0.17° after a hundred steps, with turns about the centre at 0.17° to 2.2°; docs/reproduce.md.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..dataclass_state import DefaultsForMissingFields
from ..splats import Cameras, Gaussians
from ..splats.frames import normalized_frame

Draw = Callable[[Gaussians, Cameras], Float[Tensor, "V H W 3"]]
PerView = Callable[[Float[Tensor, "V H W 3"], Float[Tensor, "V H W 3"]], Float[Tensor, " V"]]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-15


@dataclass(frozen=True)
class PoseRefinementConfig(DefaultsForMissingFields):
    """Adam on a twist of every camera."""

    num_steps: int = 100
    """Most steps; 0: the cameras stay."""
    rotation_rate: float = 5e-3
    """Learning rate of the rotation, radians."""
    translation_rate: float = 5e-3
    """Learning rate of the translation, in units of the median depth of what the cameras see."""
    final_fraction: float = 1.0
    """Learning rates fall along a cosine to this share of their start; 1 keeps them, as the protocol that the paper
    cites does. The best pose is kept, so that steps need not become small."""
    tolerance: float = 1e-4
    """A view has converged when `patience` steps have lowered its loss by less than this share of it."""
    patience: int = 25
    """Steps within which a view must gain, or it has converged."""

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.patience < 1:
            raise ValueError(
                f"PoseRefinementConfig: num_steps must not be negative and patience be at least 1, not "
                f"{self.num_steps} and {self.patience}"
            )
        for name in ("rotation_rate", "translation_rate", "tolerance"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"PoseRefinementConfig.{name} must be finite and not negative")
        if not 0.0 <= self.final_fraction <= 1.0:
            raise ValueError(f"PoseRefinementConfig.final_fraction must lie in [0, 1], not {self.final_fraction}")


class PoseStatus(Enum):
    """How the optimisation of one view ended."""

    CONVERGED = "converged"
    STEP_LIMIT = "step limit"
    DIVERGED = "diverged"
    """No pose was better than the start, which is kept, or a number was not finite."""


@dataclass(frozen=True, eq=False)
class PoseRefinement:
    """Refined cameras, never worse than the start.

    Attributes:
        cameras: of every view the best there was.
        loss_before: [V] at the start.
        loss_after: [V] at `cameras`.
        status: per view.
        num_steps: taken.
    """

    cameras: Cameras
    loss_before: Float[Tensor, " V"]
    loss_after: Float[Tensor, " V"]
    status: tuple[PoseStatus, ...]
    num_steps: int


def mean_squared_error(images: Float[Tensor, "V H W 3"], truth: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
    """MSE of every view."""
    return (images - truth).square().flatten(1).mean(1)


def refine_poses(
    gaussians: Gaussians,
    cameras: Cameras,
    images: Float[Tensor, "V H W 3"],
    draw: Draw,
    config: PoseRefinementConfig | None = None,
    loss: PerView = mean_squared_error,
) -> PoseRefinement:
    """Move cameras until what is drawn through them looks like `images`; the Gaussians stay as they are.

    Views do not influence one another. A view whose gradient is zero (it sees nothing) has converged at its start.

    Args:
        gaussians: of the scene; constants.
        cameras: where the views begin.
        images: their photographs, values in [0, 1].
        draw: the renderer, differentiable in the cameras' world-to-camera matrices.
        config: rates and steps.
        loss: of every view, to be lowered.

    Raises:
        ValueError: a number of images other than that of cameras, or whatever `draw` refuses.
    """
    config = PoseRefinementConfig() if config is None else config
    if len(images) != cameras.num_views:
        raise ValueError(f"refine_poses: {len(images)} images for {cameras.num_views} cameras")
    frozen, images = gaussians.detach(), images.to(cameras.device, cameras.dtype)
    start = Cameras(cameras.viewmats.detach(), cameras.Ks.detach(), cameras.width, cameras.height)
    depth = _median_depth(frozen, start)
    search = _Search(cameras.num_views, depth, config, start.device)
    step = 0
    for step in range(config.num_steps + 1):
        twists = search.twists.clone().requires_grad_()
        with torch.enable_grad():
            losses = loss(draw(frozen, moved(start, twists, depth)), images)
            (gradient,) = torch.autograd.grad(losses.sum(), twists)
        if search.note(losses.detach().double()) or step == config.num_steps:
            break
        search.step(gradient, step)
    return PoseRefinement(
        moved(start, search.best_twists, depth),
        search.first,
        search.best,
        search.status(),
        step,
    )


def moved(cameras: Cameras, twists: Float[Tensor, "V 6"], pivot: float = 0.0) -> Cameras:
    """Cameras with viewmat = exp(ξ^) viewmat₀; differentiable in the twists ξ = (translation, rotation).

    ξ is in the axes of each camera, with the origin at `pivot` (world units) in front of it: that point stays in place
    under the rotation.
    """
    zero = torch.zeros_like(twists[:, 0])
    x, y, z = twists[:, 3:].unbind(-1)
    # v − ω × (0, 0, pivot)
    translation = twists[:, :3] - pivot * torch.stack([y, -x, zero], dim=-1)
    rows = [torch.stack(row, dim=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero), (zero, zero, zero))]
    column = torch.cat([translation, zero[:, None]], dim=-1)
    motion = torch.linalg.matrix_exp(torch.cat([torch.stack(rows, dim=1), column[:, :, None]], dim=-1))
    viewmats = (motion @ cameras.viewmats.to(motion)).to(cameras.dtype)
    bottom = cameras.viewmats[:, 3:]  # exactly (0, 0, 0, 1)
    return Cameras(torch.cat([viewmats[:, :3], bottom], dim=1), cameras.Ks, cameras.width, cameras.height)


def _median_depth(gaussians: Gaussians, cameras: Cameras) -> float:
    """World units; 1 where the cameras see no Gaussian."""
    try:
        return 1.0 / float(normalized_frame(gaussians, cameras).scale)
    except ValueError:
        return 1.0


class _Search:
    """The state of Adam on twists [V, 6], and the best of every view so far."""

    def __init__(self, count: int, depth: float, config: PoseRefinementConfig, device: torch.device) -> None:
        self.config = config
        self.twists = torch.zeros(count, 6, dtype=torch.float64, device=device)
        self.best_twists = self.twists.clone()
        self.first_moment, self.second_moment = torch.zeros_like(self.twists), torch.zeros_like(self.twists)
        self.rates = self.twists.new_tensor([depth * config.translation_rate] * 3 + [config.rotation_rate] * 3)
        self.first = self.best = self.last = self.twists.new_zeros(count)
        self.unsound = self.resting = torch.zeros(count, dtype=torch.bool, device=device)
        self.history: list[Tensor] = []

    def note(self, losses: Float[Tensor, " V"]) -> bool:
        """Take in the losses at `twists`; whether nothing is left to do."""
        self.unsound = self.unsound | ~losses.isfinite()
        if not self.history:
            self.first = self.best = losses
        else:
            better = (losses < self.best) & ~self.unsound
            self.best = torch.where(better, losses, self.best)
            self.best_twists = torch.where(better[:, None], self.twists, self.best_twists)
        self.last = losses
        self.history.append(self.best)
        return bool((self.settled() | self.unsound).all())

    def settled(self) -> Bool[Tensor, " V"]:
        """Views whose loss has not fallen for long, or cannot."""
        if len(self.history) <= self.config.patience:
            return self.resting
        gained = self.history[-1 - self.config.patience] - self.best
        return self.resting | (gained <= self.config.tolerance * self.best)

    def step(self, gradient: Float[Tensor, "V 6"], step: int) -> None:
        """One step of Adam; views with unsound gradients stop where they are."""
        self.unsound = self.unsound | ~gradient.isfinite().all(-1)
        gradient = torch.where(self.unsound[:, None], torch.zeros_like(gradient), gradient)
        if step == 0:
            self.resting = (gradient == 0).all(-1) & ~self.unsound
        beta1, beta2 = ADAM_BETAS
        self.first_moment = beta1 * self.first_moment + (1 - beta1) * gradient
        self.second_moment = beta2 * self.second_moment + (1 - beta2) * gradient.square()
        mean, square = self.first_moment / (1 - beta1 ** (step + 1)), self.second_moment / (1 - beta2 ** (step + 1))
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / max(1, self.config.num_steps - 1))))
        factor = self.config.final_fraction + (1 - self.config.final_fraction) * float(cosine)
        change = factor * self.rates * mean / (square.sqrt() + ADAM_EPSILON)
        self.twists = torch.where(self.unsound[:, None], self.twists, self.twists - change)

    def status(self) -> tuple[PoseStatus, ...]:
        """Of every view."""
        worse = (self.best >= self.first) & (self.last > self.first * (1 + self.config.tolerance))
        found = []
        for diverged, settled in zip((worse | self.unsound).tolist(), self.settled().tolist(), strict=True):
            calm = PoseStatus.CONVERGED if settled else PoseStatus.STEP_LIMIT
            found.append(PoseStatus.DIVERGED if diverged else calm)
        return tuple(found)
