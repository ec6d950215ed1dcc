# SPDX-License-Identifier: Apache-2.0
"""D: the curvature of the photometric loss per attribute group, by which a dimensionless λ becomes Λ (design §2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..rasterization.protocol import Linearization, Weights
from ..splats import GROUPS

SMALLEST_RATIO = 1e-8
"""Floor of D relative to its largest entry: a group the context does not see at all (the rotations of isotropic
Gaussians) still gets a prior, so that the inner problem stays well posed."""


def scene_curvature(linearization: Linearization, weights: Weights, num_residuals: int) -> Float[Tensor, " 6"]:
    """Mean of diag(JᵀWJ)/n over the visible Gaussians and the parameters of each group, in float64.

    Zero for a group without parameters (shN at degree 0). Of a non-diagonal W only its diagonal counts.

    Raises:
        ValueError: no Gaussian is visible.
    """
    visible = linearization.visible
    if not bool(visible.any()):
        raise ValueError("no Gaussian is visible in the context views")
    diagonal = linearization.diagonal(weights)
    means = [leaf[visible].double().mean() if leaf.numel() else torch.zeros(()) for leaf in diagonal.leaves()]
    return torch.stack([mean.to(torch.float64).to(visible.device) for mean in means]) / num_residuals


class CurvatureScale(nn.Module):
    """Bias-corrected exponential moving average of `scene_curvature` over training steps and scenes.

    A constant for autograd, kept in buffers (checkpoints hold it), updated in training mode only and averaged over the
    processes of torch.distributed, so that all use the same D.
    """

    average: Tensor
    num_updates: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        """`decay` in [0, 1): weight of the past in one update."""
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay must lie in [0, 1), not {decay}")
        self.decay = decay
        self.register_buffer("average", torch.zeros(len(GROUPS), dtype=torch.float64))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @property
    def has_history(self) -> bool:
        """Whether any update has happened."""
        return int(self.num_updates) > 0

    @torch.no_grad()
    def update(self, curvatures: Float[Tensor, "S 6"]) -> None:
        """One update with the mean over the scenes of a batch, and over processes.

        Every process must call it, if need be with no scene ([0, 6]). Scenes whose curvature is not finite do not
        count; without any that count, nothing changes.
        """
        sound = curvatures[curvatures.isfinite().all(dim=1)]
        totals = torch.cat([sound.sum(0), sound.new_tensor([sound.shape[0]])])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        if float(totals[-1]) == 0.0:
            return
        mean = (totals[:-1] / totals[-1]).to(self.average)
        self.average.lerp_(mean, 1.0 - self.decay)
        self.num_updates += 1

    def scale(self) -> list[float]:
        """D per group; RuntimeError before the first update."""
        if not self.has_history:
            raise RuntimeError("the curvature scale has no history yet")
        return floored((self.average / (1.0 - self.decay ** int(self.num_updates))).tolist())


def floored(curvatures: list[float]) -> list[float]:
    """D from mean curvatures: at least `SMALLEST_RATIO` times the largest. ValueError if not finite, or all 0."""
    largest = max(curvatures)
    if not 0.0 < largest < float("inf") or any(value != value for value in curvatures):
        raise ValueError(f"the curvature of the photometric loss at the initialisation is {curvatures}: no scale for λ")
    return [max(value, SMALLEST_RATIO * largest) for value in curvatures]
