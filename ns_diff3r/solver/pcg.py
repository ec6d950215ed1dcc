# SPDX-License-Identifier: Apache-2.0
"""Preconditioned conjugate gradients that report what they achieved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from ..dataclass_state import DefaultsForMissingFields
from . import cuda_pcg, vector_ops
from .preconditioners import Identity, Preconditioner, PreconditionerKind


@dataclass(frozen=True)
class PCGConfig(DefaultsForMissingFields):
    """How A u = b is solved."""

    preconditioner: PreconditionerKind = "block_jacobi"
    """Approximate inverse: "none", "jacobi" (the diagonal) or "block_jacobi" (11x11 geometry and KxK colour blocks)."""
    geometric_mean: bool = True
    """Precondition with the geometric mean of Λ and the diagonal (or blocks) of A instead of the latter alone."""
    tolerance: float = 1e-3
    """Stop when the residual, in the norm sqrt(rᵀM⁻¹r), is this fraction of the right-hand side's."""
    max_iterations: int = 200
    """Products with A after which the solve ends whatever the residual."""
    warm_start: bool = False
    """Start from the solution of the same scene's previous solve where that is better than zero."""
    refresh_every: int = 50
    """Iterations after which the residual is recomputed as b − Ax, against the drift of the recurrence; 0 for never."""

    def __post_init__(self) -> None:
        if self.preconditioner not in ("none", "jacobi", "block_jacobi"):
            raise ValueError(
                f'PCGConfig.preconditioner must be "none", "jacobi" or "block_jacobi", not {self.preconditioner!r}'
            )
        if not 0.0 < self.tolerance < 1.0:
            raise ValueError(f"PCGConfig.tolerance must lie in (0, 1), not {self.tolerance}")
        if self.max_iterations < 1:
            raise ValueError(f"PCGConfig.max_iterations must be at least 1, not {self.max_iterations}")
        if self.refresh_every < 0:
            raise ValueError(f"PCGConfig.refresh_every must not be negative, not {self.refresh_every}")


class PCGStatus(str, Enum):
    """How a solve ended."""

    CONVERGED = "converged"
    """The residual reached the tolerance."""
    MAX_ITERATIONS = "max_iterations"
    """The iteration cap came first; the solution is the last iterate."""
    BREAKDOWN = "breakdown"
    """A or M is not positive definite along a search direction, or a number is not finite; the last sound iterate."""
    ZERO_RHS = "zero_rhs"
    """The right-hand side is zero, so is the solution."""


@dataclass(frozen=True, eq=False)
class PCGResult:
    """A solution and how good it is."""

    solution: Float[Tensor, " P"]
    status: PCGStatus
    iterations: int
    """Search directions taken; each costs one product with A."""
    residual: float
    """Achieved sqrt(rᵀM⁻¹r) / sqrt(bᵀM⁻¹b) of `solution`."""
    residual_history: list[float] = field(repr=False)
    """The same before the first and after every iteration."""


@torch.no_grad()
def pcg(
    operator: Callable[[Float[Tensor, " P"]], Float[Tensor, " P"]],
    rhs: Float[Tensor, " P"],
    config: PCGConfig,
    preconditioner: Preconditioner | None = None,
    initial: Float[Tensor, " P"] | None = None,
) -> PCGResult:
    """Solve A u = b for symmetric positive definite A.

    Inner products are summed in float64 in a fixed order: with a deterministic A the result does not depend on the
    number of threads.

    Args:
        operator: v → A v; a new tensor each time.
        rhs: b; scaling it scales the solution and nothing else (the stop is relative).
        config: tolerance and caps; `config.preconditioner` has been made into `preconditioner` by the caller.
        preconditioner: M⁻¹; None for the identity.
        initial: start vector; taken only if its residual is smaller than that of zero.
    """
    if cuda_pcg.applies(operator, preconditioner, initial):
        return cuda_pcg.cuda_pcg(operator, rhs, config, preconditioner)  # pyright: ignore[reportArgumentType]
    preconditioner = preconditioner or Identity()
    x, r, z = torch.zeros_like(rhs), rhs.contiguous().clone(), torch.empty_like(rhs)
    rz = rhs_norm2 = preconditioner.solve(r, z)
    if rhs_norm2 == 0.0:
        return PCGResult(x, PCGStatus.ZERO_RHS, 0, 0.0, [0.0])
    if not 0.0 < rhs_norm2 < math.inf:
        return PCGResult(x, PCGStatus.BREAKDOWN, 0, math.nan if math.isnan(rhs_norm2) else 1.0, [1.0])
    if initial is not None:
        start = initial.contiguous().clone()
        rest = r - operator(start)
        rest_z = torch.empty_like(z)
        rest_norm2 = preconditioner.solve(rest, rest_z)
        if 0.0 <= rest_norm2 < rhs_norm2:
            x, r, z, rz = start, rest, rest_z, rest_norm2

    history = [math.sqrt(rz / rhs_norm2)]
    p = z.clone()
    status = PCGStatus.MAX_ITERATIONS
    for iteration in range(1, config.max_iterations + 1):
        if history[-1] <= config.tolerance:
            status = PCGStatus.CONVERGED
            break
        q = operator(p)
        curvature = vector_ops.dot(p, q)
        step = rz / curvature if curvature > 0.0 else math.nan
        if not math.isfinite(step):
            status = PCGStatus.BREAKDOWN
            break
        vector_ops.cg_update(step, p, q, x, r)
        if config.refresh_every and iteration % config.refresh_every == 0:
            torch.sub(rhs, operator(x), out=r)
        rz_next = preconditioner.solve(r, z)
        if not 0.0 <= rz_next < math.inf:
            vector_ops.axpy(-step, p, x)  # back to the last sound iterate
            status = PCGStatus.BREAKDOWN
            break
        history.append(math.sqrt(rz_next / rhs_norm2))
        vector_ops.xpby(z, rz_next / rz, p)
        rz = rz_next
    if status is PCGStatus.MAX_ITERATIONS and history[-1] <= config.tolerance:
        status = PCGStatus.CONVERGED
    return PCGResult(x, status, len(history) - 1, history[-1], history)
