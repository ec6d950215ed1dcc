# SPDX-License-Identifier: Apache-2.0
"""Settings of test-time optimisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from ..dataclass_state import DefaultsForMissingFields
from ..splats import GROUPS
from .backward.combinations import check_combination
from .backward.config import BackwardConfig
from .backward.protocol import BackwardMode
from .image_loss import ImageLoss
from .inner import (
    SGD,
    Adam,
    GaussNewton,
    InnerOptimizer,
    LevenbergMarquardt,
    LMConfig,
    RateSchedule,
    ViewSampling,
)
from .pcg import PCGConfig


@dataclass(frozen=True)
class LearningRates(DefaultsForMissingFields):
    """One learning rate per attribute group, in the normalised frame (median depth 1). gsplat's, to be measured."""

    means: float = 1.6e-4
    """Positions, in median depths."""
    quats: float = 1e-3
    """Raw quaternions."""
    scales: float = 5e-3
    """Logarithms of the standard deviations."""
    opacities: float = 5e-2
    """Logits of the opacities."""
    sh0: float = 2.5e-3
    """Constant spherical harmonics."""
    shN: float = 1.25e-4  # noqa: N815 - gsplat's name
    """Higher spherical harmonics."""

    def __post_init__(self) -> None:
        for name, rate in asdict(self).items():
            if not 0.0 <= rate < float("inf"):
                raise ValueError(f"LearningRates.{name} must be finite and not negative, not {rate}")


@dataclass(frozen=True)
class TTOConfig(DefaultsForMissingFields):
    """How `DifferentiableTTO` optimises a scene, and how it differentiates the result."""

    num_steps: int = 50
    """Inner optimisation steps."""
    optimizer: Literal["adam", "sgd", "lm", "gauss_newton"] = "adam"
    """Inner optimiser. "lm" is Levenberg-Marquardt; "gauss_newton" solves the linearised problem in every step: it
    reaches stationary points of nearly linear problems and has no step control."""
    learning_rates: LearningRates = field(default_factory=LearningRates)
    """Learning rates of "adam" and "sgd", per attribute group."""
    rate_schedule: RateSchedule = field(default_factory=RateSchedule)
    """How the learning rates fall along the optimisation."""
    lm: LMConfig = field(default_factory=LMConfig)
    """Step control of "lm"."""
    view_sampling: ViewSampling = field(default_factory=ViewSampling)
    """Which of the context views a step looks at. The result is always measured on all of them."""
    time_budget: float | None = None
    """Seconds after which no further step begins; None: no limit. Runs with it do not repeat to the bit."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's first and second moments."""
    adam_epsilon: float = 1e-15
    """Added to the root of Adam's second moment."""
    frozen_groups: tuple[str, ...] = ()
    """Attribute groups that test-time optimisation leaves as the initialisation has them."""
    stationarity_tolerance: float = 0.0
    """Stop early when |gradient of L_in| has fallen to this fraction of its value at the start; 0: take all steps."""
    loss: ImageLoss = field(default_factory=ImageLoss)
    """Photometric part of the inner loss."""
    backward_mode: BackwardMode = BackwardMode.IMPLICIT
    """How gradients pass through the optimisation."""
    backward: BackwardConfig = field(default_factory=BackwardConfig)
    """Settings of the backward modes other than "implicit"."""
    pcg: PCGConfig = field(default_factory=PCGConfig)
    """The linear solve of the backward mode "implicit"."""
    stationarity_warning: float = 0.1
    """Stationarity ratio above which a run in mode "implicit" carries a warning: the formula holds at 0."""
    curvature_decay: float = 0.99
    """Decay of the moving average D of the curvature per group, which gives λ its units."""
    normalize_frame: bool = True
    """Optimise in the frame with the first camera at the origin and median depth 1, so that learning rates, D and λ do
    not depend on the world's units."""
    preset: str = "gsplat-1.4.0"
    """Semantics of the renderer; see `ns_diff3r.rasterization.PRESETS`."""
    antialiased: bool = False
    """Whether opacities are compensated for the blur that rendering adds."""
    background: tuple[float, float, float] | None = None
    """Colour behind the Gaussians; None: black."""
    backend: Literal["auto", "native", "reference"] = "auto"
    """Which renderer draws."""

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(f"TTOConfig.num_steps must not be negative, not {self.num_steps}")
        if self.optimizer not in ("adam", "sgd", "lm", "gauss_newton"):
            raise ValueError(
                f'TTOConfig.optimizer must be "adam", "sgd", "lm" or "gauss_newton", not {self.optimizer!r}'
            )
        if self.time_budget is not None and not self.time_budget > 0.0:
            raise ValueError(f"TTOConfig.time_budget must be positive, not {self.time_budget}")
        unknown = sorted(set(self.rate_schedule.groups) - set(GROUPS))
        if unknown:
            raise ValueError(f"TTOConfig.rate_schedule.groups: unknown {unknown}; the groups are {list(GROUPS)}")
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas) or len(self.adam_betas) != 2:
            raise ValueError(f"TTOConfig.adam_betas must be two numbers in [0, 1), not {self.adam_betas}")
        if not self.adam_epsilon >= 0.0:
            raise ValueError(f"TTOConfig.adam_epsilon must not be negative, not {self.adam_epsilon}")
        unknown = sorted(set(self.frozen_groups) - set(GROUPS))
        if unknown:
            raise ValueError(f"TTOConfig.frozen_groups: unknown {unknown}; the groups are {list(GROUPS)}")
        if set(GROUPS) == set(self.frozen_groups):
            raise ValueError("TTOConfig.frozen_groups names every group: nothing is left to optimise")
        if not 0.0 <= self.stationarity_tolerance < 1.0:
            raise ValueError(f"TTOConfig.stationarity_tolerance must lie in [0, 1), not {self.stationarity_tolerance}")
        if not 0.0 <= self.curvature_decay < 1.0:
            raise ValueError(f"TTOConfig.curvature_decay must lie in [0, 1), not {self.curvature_decay}")
        mode = BackwardMode(self.backward_mode)  # ValueError naming the value if it is no mode
        check_combination(mode, self.backward, self.optimizer, self.backend, self.num_steps)
        if self.optimizer in ("lm", "gauss_newton"):
            self.loss.check_curvature()

    def make_optimizer(self) -> InnerOptimizer:
        """The inner optimiser that these settings describe."""
        rates = asdict(self.learning_rates)
        if self.optimizer == "adam":
            return Adam(rates, self.adam_betas, self.adam_epsilon, self.rate_schedule, self.num_steps)
        if self.optimizer == "sgd":
            return SGD(rates, self.rate_schedule, self.num_steps)
        if self.optimizer == "lm":
            return LevenbergMarquardt(self.lm)
        return GaussNewton()
