# SPDX-License-Identifier: Apache-2.0
"""What an inner optimiser is: a rule that moves θ, given L_in linearised there, and keeps whatever state it likes."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ...rasterization.protocol import Linearization
from ...splats import Gaussians
from .. import vector_ops
from ..image_loss import LossLinearization
from ..normal_operator import NormalOperator
from ..prior import Prior
from ..vector_ops import ParameterRange, RangeStatistics

InnerState = dict[str, Any]
"""Everything an optimiser needs to continue: tensors and numbers by name. It is its own state dict: `torch.save` it,
hand it back to `run_trajectory`, and the run continues. Per-Gaussian state (moments, a latent vector) is a tensor whose
first dimension is N, or a flat vector in the layout of the parameters."""


def parameter_ranges(
    template: Gaussians, learning_rates: dict[str, float], frozen: frozenset[str]
) -> list[ParameterRange]:
    """The attribute groups as ranges of the flat layout of `template`, in its order; a group without a rate has 0."""
    slices = template.group_slices()
    return [ParameterRange(s.start, s.stop, learning_rates.get(n, 0.0), n in frozen) for n, s in slices.items()]


def copy_state(state: InnerState) -> InnerState:
    """A state that later steps do not change."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


class InnerPoint:
    """L_in = photometric loss + prior, linearised at θ. Steps read it; costly parts are computed on demand, once."""

    def __init__(
        self,
        theta: Float[Tensor, " P"],
        linearization: Linearization,
        loss: LossLinearization,
        prior: Prior | None,
        frozen: frozenset[str],
        step: int,
    ) -> None:
        self.theta = theta
        self.linearization = linearization
        self.loss = loss
        self.prior = prior
        self.frozen = frozen
        self.step = step
        """Index of the step that starts here, 0 for the first."""

    @property
    def template(self) -> Gaussians:
        """Gaussians of the shape that the flat vectors have."""
        return self.linearization.gaussians

    @property
    def anchor(self) -> Float[Tensor, " P"] | None:
        """θ⁰ of the prior, None without one."""
        return None if self.prior is None else self.prior.anchor

    @property
    def strength(self) -> Float[Tensor, " P"] | None:
        """Λ of the prior, None without one."""
        return None if self.prior is None else self.prior.strength

    @cached_property
    def image_gradient(self) -> Float[Tensor, " P"]:
        """∇ of the photometric loss with respect to θ, all groups. The fused steps turn it into the total gradient."""
        return self.linearization.vjp(self.loss.gradient).flatten()

    def ranges(self, learning_rates: dict[str, float] | None = None) -> list[ParameterRange]:
        """The attribute groups as ranges of the flat layout, in its order."""
        return parameter_ranges(self.template, learning_rates or {}, self.frozen)

    def total_gradient(self) -> tuple[Float[Tensor, " P"], list[RangeStatistics]]:
        """(∇L_in with the prior's part, 0 in frozen groups; statistics per group). A new vector."""
        gradient = self.image_gradient.clone()
        statistics = vector_ops.prior_gradient(self.ranges(), self.theta, self.anchor, self.strength, gradient)
        for name in self.frozen:
            gradient[self.template.group_slices()[name]] = 0
        return gradient, statistics

    def normal_operator(self) -> NormalOperator:
        """A = (1/n) JᵀWJ + Λ at θ, on the free groups."""
        n = self.loss.objective.num_residuals
        return NormalOperator(self.linearization, self.loss.curvature, n, self.strength, tuple(self.frozen))


class InnerStep(NamedTuple):
    """What one step returns."""

    theta: Float[Tensor, " P"]
    """The next iterate, a new tensor or the buffer offered."""
    statistics: list[RangeStatistics]
    """½ΣΛ(θ−θ⁰)² and |∇L_in|² per group, at the point the step started from."""


class StepRecord(NamedTuple):
    """One step that was taken. Its tensors belong to the run: observers copy what later steps change."""

    step: int
    theta: Float[Tensor, " P"]
    """Where it started, θ_k; stays as it is."""
    gradient: Float[Tensor, " P"]
    """∇L_in(θ_k) as the optimiser used it; stays as it is."""
    state: InnerState
    """After the step; the next one changes it."""


class StepObserver(Protocol):
    """Watches a run."""

    def __call__(self, record: StepRecord, next_theta: Float[Tensor, " P"]) -> None:
        """A step led to `next_theta`."""
        ...


class InnerOptimizer(Protocol):
    """A rule θ_{k+1} = step(θ_k). The object holds only settings (and the trainable parameters of a learned rule)."""

    def init(self, theta: Gaussians) -> InnerState:
        """State before the first step."""
        ...

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One step from `point.theta`, which stays. `state` is updated in place; `out` may take the result."""
        ...


class StepAdjoint(Protocol):
    """The derivative of an optimiser's steps, taken backwards; it keeps the adjoints of the optimiser's own state."""

    def pull(self, record: StepRecord, cotangent: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """∂L/∂g_k, g_k the gradient that step k used, from ∂L/∂θ_{k+1}; 0 in frozen groups. A new tensor."""
        ...


@runtime_checkable
class DifferentiableOptimizer(Protocol):
    """An optimiser whose step is θ_{k+1} = θ_k + Δ(state, ∇L_in(θ_k)), and knows its derivative."""

    def init(self, theta: Gaussians) -> InnerState:
        """As of `InnerOptimizer`."""
        ...

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """As of `InnerOptimizer`."""
        ...

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of every group in a step: what a change of its parameters is measured in."""
        ...

    def adjoint(self, template: Gaussians, frozen: frozenset[str]) -> StepAdjoint:
        """A fresh backward sweep over steps of parameters like `template`."""
        ...

    def unrolled_step(
        self, state: InnerState, theta: Float[Tensor, " P"], gradient: Float[Tensor, " P"], ranges: list[ParameterRange]
    ) -> tuple[Float[Tensor, " P"], InnerState]:
        """The same step in torch, differentiable by autograd: (θ_{k+1}, new state)."""
        ...
