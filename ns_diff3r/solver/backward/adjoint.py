# SPDX-License-Identifier: Apache-2.0
"""The adjoint mode: the exact gradient of the optimiser's own recurrence, without double backward.

Derivation. The forward run is, for k = 1 … K from θ_1 = θ⁰,

    g_k = ∇L_img(θ_k) + Λ ⊙ (θ_k − θ⁰),      θ_{k+1} = θ_k + Δ(m_k, …),      (m_k, …) = the optimiser's state after g_k.

Reverse mode through it, entering step k with w = ∂L/∂θ_{k+1} (at the start of the sweep the gradient that came in):
the derivative of the optimiser's step gives ḡ = ∂L/∂g_k, elementwise (`inner.adam`, `inner.sgd`), and by way of g_k

    w += ∇²L_img(θ_k) ḡ + Λ ⊙ ḡ,        ∂L/∂θ⁰ −= Λ ⊙ ḡ,        ∂L/∂λ += D ⊙ (θ_k − θ⁰) ⊙ ḡ,

with which w = ∂L/∂θ_k; at the end ∂L/∂θ⁰ += w. The Hessian is symmetric, so its product with ḡ needs no transpose, and
a single product a step is all that is needed. Frozen groups have ḡ = 0 and collect H_fx ḡ in w. A Gaussian that nothing
sees has g = 0 and s = 0 throughout, hence ḡ = 0: its gradient passes through exactly.
"""

from __future__ import annotations

import math
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from .. import vector_ops
from ..inner import DifferentiableOptimizer, StepObserver
from ..prior import Prior
from .config import BackwardConfig
from .hessian_products import make_hessian_product
from .protocol import BackwardInfo, BackwardMode, BackwardResult, FinishedTTO, RerunSteps
from .tape import RecomputationTape, SnapshotTape

LARGEST_GROWTH = 100.0
"""Of the gradient through the steps, before a warning."""


class Adjoint:
    """Back through all steps."""

    mode = BackwardMode.ADJOINT

    def __init__(self, config: BackwardConfig) -> None:
        self.config = config

    @property
    def num_sweeps(self) -> int | None:
        """Steps to go back through, counted from the last; None: all."""
        return None

    def check(self, prior: Prior | None) -> None:
        """Works with and without a prior."""

    def observer(self, rerun: RerunSteps, num_steps: int) -> StepObserver | None:
        """A tape of the steps that will be needed."""
        if self.config.trajectory == "recomputation":
            return RecomputationTape(rerun, num_steps)
        return SnapshotTape(self.num_sweeps)

    @torch.no_grad()
    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """Sweep backwards over the tape."""
        optimizer, tape, prior = finished.optimizer, finished.observer, finished.prior
        assert isinstance(optimizer, DifferentiableOptimizer)
        assert isinstance(tape, SnapshotTape | RecomputationTape)
        info = BackwardInfo(self.mode, "completed", iterations=0)
        info.gradient_norm = math.sqrt(vector_ops.dot(gradient, gradient))
        if not math.isfinite(info.gradient_norm):
            # An overflow of mixed precision: a grad scaler must see it and skip the step.
            info.status = "non_finite_gradient"
            nothing = torch.full_like(gradient, math.nan)
            return BackwardResult(nothing, None if prior is None else nothing.clone(), info)

        product = make_hessian_product(self.config)
        adjoint = optimizer.adjoint(finished.template, finished.frozen)
        w = gradient.clone()
        start, multiplier = (None, None) if prior is None else (torch.zeros_like(w), torch.zeros_like(w))
        info.iterations = 0
        for record in islice(tape.backwards(finished.trajectory.num_steps), self.num_sweeps):
            by_gradient = adjoint.pull(record, w)
            at = finished.problem.evaluate(finished.template.unflatten(record.theta), record.step)
            w += product(at, record.theta, by_gradient, optimizer.rates(record.step))
            if prior is not None and start is not None and multiplier is not None:
                vector_ops.prior_adjoint(record.theta, prior.anchor, prior.strength, by_gradient, w, start, multiplier)
            info.iterations += 1
            del at  # its memory serves the next step
        growth = self._growth(finished, optimizer, gradient, w)
        if growth > LARGEST_GROWTH:
            info.warnings.append(
                f"the gradient grew {growth:.2g}-fold on its way back through {info.iterations} steps: the result "
                "depends on the initialisation as chaos does. Fewer steps, falling learning rates (rate_schedule) or a "
                "larger λ keep it regular"
            )
        if prior is None or start is None or multiplier is None:
            return BackwardResult(w, None, info)
        return BackwardResult(w.add_(start), prior.times_scale(multiplier), info)

    @staticmethod
    def _growth(finished: FinishedTTO, optimizer: DifferentiableOptimizer, before: Tensor, after: Tensor) -> float:
        """|after| / |before|, every parameter measured in learning rates of the first step; 0 if there was nothing."""
        rates, sizes = optimizer.rates(0), [0.0, 0.0]
        for name, part in finished.template.group_slices().items():
            for i, vector in enumerate((before, after)):
                sizes[i] += rates[name] ** 2 * vector_ops.dot(vector[part], vector[part])
        return math.sqrt(sizes[1] / sizes[0]) if sizes[0] > 0.0 else 0.0
