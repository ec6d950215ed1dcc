# SPDX-License-Identifier: Apache-2.0
"""The unrolled mode: torch's autograd through every inner step. The oracle of the other modes, for small scenes.

The run is taken again with a graph: at θ_k the dense reference renderer, with the decisions taken at θ_k, gives R(θ_k);
its loss, with the signs of L1 taken there, gives ∇L_in(θ_k) with a graph of its own (double backward); and the
optimiser's step is written in torch. Memory grows with every step by the whole graph of a dense rendering.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from .. import vector_ops
from ..image_loss import differentiable_loss
from ..inner import DifferentiableOptimizer, StepObserver
from ..inner.protocol import parameter_ranges
from ..prior import Prior
from ..problem import InnerProblem
from .protocol import BackwardInfo, BackwardMode, BackwardResult, FinishedTTO, RerunSteps


class Unroll:
    """∂L/∂θ⁰ and ∂L/∂λ by autograd."""

    def check(self, prior: Prior | None) -> None:
        """Works with and without a prior; the backend has been checked with the settings."""

    def observer(self, rerun: RerunSteps, num_steps: int) -> StepObserver | None:
        """Nothing: the run is taken again."""
        return None

    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """Unroll and differentiate."""
        optimizer, prior = finished.optimizer, finished.prior
        assert isinstance(optimizer, DifferentiableOptimizer)
        template = finished.template
        steps = finished.trajectory.num_steps
        with torch.enable_grad():
            anchor = template.flatten().detach().clone().requires_grad_()
            multiplier = None if prior is None else prior.multiplier.detach().clone().requires_grad_()
            strength = None
            if prior is not None and multiplier is not None:
                strength = prior.times_scale(torch.ones_like(multiplier.detach())) * multiplier
            theta, state = anchor.clone(), optimizer.init(template.detach())
            for step in range(steps):
                loss = inner_image_loss(finished.problem, template, theta, step)
                if strength is not None:
                    loss = loss + 0.5 * (strength * (theta - anchor).square()).sum()
                # Of θ_k as it stands in the loss, and once more of everything it came from.
                (inner_gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
                ranges = parameter_ranges(template, optimizer.rates(step), finished.frozen)
                theta, state = optimizer.unrolled_step(state, theta, inner_gradient, ranges)
            inputs = [anchor] if multiplier is None else [anchor, multiplier]
            results = torch.autograd.grad(theta, inputs, gradient, allow_unused=True)
        start, *rest = [torch.zeros_like(x) if g is None else g for g, x in zip(results, inputs, strict=True)]
        info = BackwardInfo(BackwardMode.UNROLL, "completed", iterations=steps)
        info.gradient_norm = math.sqrt(vector_ops.dot(gradient, gradient))
        drift = float((theta.detach() - finished.theta).abs().max())
        if drift > 1e-3 * float((finished.theta - anchor.detach()).abs().max()):
            info.warnings.append(
                f"the unrolled run ended {drift:.2g} from the forward run: its gradient is that of another run. Use "
                "float64 and fewer steps"
            )
        return BackwardResult(start, rest[0] if rest else None, info)


def inner_image_loss(
    problem: InnerProblem, template: Gaussians, theta: Float[Tensor, " P"], step: int
) -> Float[Tensor, ""]:
    """The photometric loss at θ with a graph, its decisions and signs frozen at that θ."""
    at = problem.evaluate(template.unflatten(theta.detach()), step)
    frozen = at.linearization.at(template.unflatten(theta.detach()), "pairs")
    rendered = frozen.render(template.unflatten(theta)).rgb
    return differentiable_loss(at.loss.objective, rendered)
