# SPDX-License-Identifier: Apache-2.0
"""The contract of a backward mode: how ∂L/∂θ* becomes ∂L/∂θ⁰ and ∂L/∂λ once test-time optimisation has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from ..inner import InnerOptimizer, StepObserver, Trajectory
from ..normal_operator import NormalOperator
from ..pcg import PCGConfig
from ..prior import Prior
from ..problem import Evaluation, InnerProblem


class BackwardMode(str, Enum):
    """How gradients pass through test-time optimisation."""

    IMPLICIT = "implicit"
    """The implicit function theorem at θ*, with the Gauss-Newton curvature: one linear solve, whatever the number of
    steps. Right at a stationary point; see `TTOSolution.stationarity`."""
    ADJOINT = "adjoint"
    """Back through every step of the optimiser's own recurrence, with Hessian-vector products: exact at any number of
    steps. About twice the time of the optimisation."""
    TRUNCATED = "truncated"
    """The adjoint of the last `BackwardConfig.num_iterations` steps; what came before passes through."""
    UNROLL = "unroll"
    """Autograd through all steps on the reference renderer: small scenes only, memory grows with the steps. The oracle
    of the others."""
    FIRST_ORDER = "first_order"
    """∂L/∂θ⁰ = ∂L/∂θ*, as if the optimisation were a constant shift; nothing for λ."""
    METAGRAD = "metagrad"
    """The mean of first-order gradients at anchors along the optimisation (ForeSplat); nothing for λ."""
    NONE = "none"
    """No gradient: θ* is a constant."""


@dataclass(eq=False)
class FinishedTTO:
    """What a backward mode knows of the run it differentiates. Nothing here grows with the number of steps, unless the
    mode asked for it."""

    problem: InnerProblem
    template: Gaussians
    """Gaussians of the shape that the flat vectors have: θ⁰."""
    prior: Prior | None
    trajectory: Trajectory
    frozen: frozenset[str]
    pcg: PCGConfig
    warm_start: Float[Tensor, " P"] | None = None
    """Solution of an earlier solve of this scene, if the configuration keeps one."""
    optimizer: InnerOptimizer | None = None
    """The rule that made the trajectory."""
    observer: StepObserver | None = None
    """What the mode had watch the forward run, None if nothing did."""

    @property
    def theta(self) -> Float[Tensor, " P"]:
        """θ*."""
        return self.trajectory.theta

    @cached_property
    def evaluation(self) -> Evaluation:
        """Renderer and loss linearised at θ*: made on first use, then kept for the life of this object."""
        return self.problem.evaluate(self.template.unflatten(self.theta), None)

    @cached_property
    def operator(self) -> NormalOperator:
        """A at θ*, on the free groups."""
        strength = None if self.prior is None else self.prior.strength
        loss = self.evaluation.loss
        n = self.problem.num_residuals
        return NormalOperator(self.evaluation.linearization, loss.curvature, n, strength, tuple(self.frozen))


@dataclass(eq=False)
class BackwardInfo:
    """What the backward pass did; numbers that the mode does not have are None."""

    mode: BackwardMode
    status: str = ""
    """Of the linear solve: a `PCGStatus` value; "completed" without one; or "non_finite_gradient"."""
    iterations: int | None = None
    """Products with A, or with Hessians."""
    residual: float | None = None
    """Achieved relative residual of a linear solve, in the preconditioned norm."""
    residual_history: list[float] = field(default_factory=list, repr=False)
    gradient_norm: float | None = None
    """|∂L/∂θ*| as it came in (with the factor of a grad scaler, in the normalised frame)."""
    warnings: list[str] = field(default_factory=list)


class BackwardResult(NamedTuple):
    """Gradients with respect to the start and to λ, and the report."""

    start: Float[Tensor, " P"]
    """∂L/∂θ⁰."""
    multiplier: Float[Tensor, " P"] | None
    """∂L/∂λ, None without a prior."""
    info: BackwardInfo
    solution: Float[Tensor, " P"] | None = None
    """What a warm start of the next solve may use."""


class BackwardPass(Protocol):
    """One mode. `check` runs when a layer is called, so that what cannot work fails before the forward pass; settings
    that exclude each other are refused when they are read (`combinations`)."""

    def check(self, prior: Prior | None) -> None:
        """Raise ValueError if the mode cannot differentiate such a run."""
        ...

    def observer(self, rerun: RerunSteps, num_steps: int) -> StepObserver | None:
        """What has to watch the forward run; None if its result is enough.

        Args:
            rerun: takes steps again, for modes that recompute.
            num_steps: how many steps the run will take at most.
        """
        ...

    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """∂L/∂θ* → (∂L/∂θ⁰, ∂L/∂λ)."""
        ...


RerunSteps = Callable[[Tensor, "dict", int, int, StepObserver], None]
"""(θ, state, first step, number of steps, observer): the steps of the forward run once more, from a kept state."""
