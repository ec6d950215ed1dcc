# SPDX-License-Identifier: Apache-2.0
"""What the tests of the layer share: settings under which answers are exact, and one call forward and backward."""

import torch
from torch import Tensor

from ns_diff3r.solver import DifferentiableTTO, ImageLoss, PCGConfig, TTOConfig
from ns_diff3r.solver.config import LearningRates
from ns_diff3r.splats import GROUPS, Gaussians, Views

MSE = ImageLoss(kind="mse", ssim_weight=0.0)
TIGHT = PCGConfig(tolerance=1e-13, max_iterations=2000)
RATES = LearningRates(**dict.fromkeys(GROUPS, 0.02))


def config_of(**settings) -> TTOConfig:
    defaults = {"loss": MSE, "pcg": TIGHT, "learning_rates": RATES, "normalize_frame": False}
    return TTOConfig(**{**defaults, **settings})


def watched(init: Gaussians) -> Gaussians:
    return init.map(lambda leaf: leaf.clone().requires_grad_())


def strengths(init: Gaussians, seed: int = 3) -> Gaussians:
    """λ per parameter, between 0.1 and 1.1."""
    generator = torch.Generator().manual_seed(seed)
    return init.map(lambda leaf: torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype) + 0.1)


def gradients(
    layer: DifferentiableTTO, init: Gaussians, prior: Gaussians, context: Views, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(θ*, ∂L/∂θ⁰, ∂L/∂λ) of L = ⟨cotangent, θ*⟩, flat."""
    init, prior = watched(init), watched(prior)
    theta, _ = layer(init, prior, context)
    flat = theta.flatten()
    (flat * cotangent).sum().backward()
    start, multiplier = (g.map(lambda leaf: leaf.grad if leaf.grad is not None else leaf * 0) for g in (init, prior))
    return flat.detach(), start.detach().flatten(), multiplier.detach().flatten()
