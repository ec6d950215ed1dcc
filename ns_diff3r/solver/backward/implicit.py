# SPDX-License-Identifier: Apache-2.0
"""The implicit mode (Diff3R): gradients at a stationary point by one linear solve.

Derivation. Let θ = (x, f) with x the free and f the frozen parameters (f* = f⁰), and let x* be stationary:

    F(x*, f⁰, x⁰, λ) = ∇_x L_img(x*, f⁰) + λ D ⊙ (x* − x⁰) = 0.

With H the Hessian of L_img, replaced by its Gauss-Newton part (1/n) JᵀWJ, and Λ = λ D, the derivatives of F are

    ∂F/∂x* = H_xx + diag(Λ) = A,      ∂F/∂x⁰ = −diag(Λ),      ∂F/∂λ = D ⊙ (x* − x⁰),      ∂F/∂f = H_xf,

so dx* = A⁻¹ (Λ ⊙ dx⁰ − D ⊙ (x* − x⁰) ⊙ dλ − H_xf df). For an outer loss with gradient (g_x, g_f) at θ*, and A u = g_x
(A is symmetric),

    ∂L/∂x⁰ = Λ ⊙ u            ∂L/∂λ = −D ⊙ u ⊙ (x* − x⁰)            ∂L/∂f⁰ = g_f − H_fx u.

D is a constant. Where u ⊙ (x* − x⁰) < 0 the outer loss wants to go further along the displacement: the gradient is
positive and λ falls. A Gaussian that no context view shows has A = Λ, hence ∂L/∂x⁰ = g_x exactly up to rounding.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .. import vector_ops
from ..inner import StepObserver
from ..pcg import PCGStatus, pcg
from ..preconditioners import make_preconditioner
from ..prior import Prior
from .protocol import BackwardInfo, BackwardMode, BackwardResult, FinishedTTO, RerunSteps


class Implicit:
    """∂L/∂θ⁰ = Λ ⊙ u and ∂L/∂λ = −D ⊙ u ⊙ (θ* − θ⁰) with A u = ∂L/∂θ*."""

    def check(self, prior: Prior | None) -> None:
        """Raise ValueError without a prior."""
        if prior is None:
            raise ValueError(
                "backward mode 'implicit' needs a prior: without λ the inner loss does not depend on the "
                "initialisation, so the implicit gradient is identically zero. Pass a λ > 0, or run under "
                "torch.no_grad() if no gradient is wanted"
            )

    def observer(self, rerun: RerunSteps, num_steps: int) -> StepObserver | None:
        """Nothing: the result is enough."""
        return None

    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """Solve A u = g on the free groups and assemble the gradients."""
        prior = finished.prior
        self.check(prior)
        assert prior is not None
        info = BackwardInfo(BackwardMode.IMPLICIT, gradient_norm=math.sqrt(vector_ops.dot(gradient, gradient)))
        if not math.isfinite(info.gradient_norm or 0.0):
            # An overflow of mixed precision: a grad scaler must see it and skip the step.
            info.status = "non_finite_gradient"
            nothing = torch.full_like(gradient, math.nan)
            return BackwardResult(nothing, nothing.clone(), info)

        operator = finished.operator
        rhs = operator.mask_(gradient.clone())
        preconditioner = make_preconditioner(finished.pcg.preconditioner, operator, finished.pcg.geometric_mean)
        result = pcg(operator, rhs, finished.pcg, preconditioner, finished.warm_start)
        info.status, info.iterations, info.residual = result.status.value, result.iterations, result.residual
        info.residual_history = result.residual_history
        if result.status is PCGStatus.MAX_ITERATIONS:
            info.warnings.append(
                f"the implicit solve stopped at a relative residual of {result.residual:.2g} after "
                f"{result.iterations} iterations (tolerance {finished.pcg.tolerance:.2g}): raise pcg.max_iterations "
                "or λ"
            )
        elif result.status is PCGStatus.BREAKDOWN:
            info.warnings.append(
                f"the implicit solve broke down at a relative residual of {result.residual:.2g} after "
                f"{result.iterations} iterations: λ is too small for this precision, raise it or solve in float64"
            )

        u = result.solution
        start = torch.mul(prior.strength, u)
        multiplier = prior.times_scale(u.mul(finished.theta - prior.anchor).neg_())
        if finished.frozen:
            through = operator.data_term(u)
            for name in finished.frozen:
                part = operator.slices[name]
                torch.sub(gradient[part], through[part], out=start[part])
        return BackwardResult(start, multiplier, info, u)
