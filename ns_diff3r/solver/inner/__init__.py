# SPDX-License-Identifier: Apache-2.0
"""Inner optimisers: their contract, Adam, SGD, Gauss-Newton, Levenberg-Marquardt, and the loop that runs them."""

from .adam import Adam
from .gauss_newton import GaussNewton
from .levenberg_marquardt import LevenbergMarquardt, LMConfig
from .protocol import (
    DifferentiableOptimizer,
    InnerOptimizer,
    InnerPoint,
    InnerState,
    InnerStep,
    StepAdjoint,
    StepObserver,
    StepRecord,
)
from .schedule import RateSchedule
from .sgd import SGD
from .training import training_steps
from .trajectory import Trajectory, TTOStatus, first_gradient, rerun_steps, run_trajectory
from .view_sampling import ViewSampler, ViewSampling

__all__ = [
    "SGD",
    "Adam",
    "DifferentiableOptimizer",
    "GaussNewton",
    "InnerOptimizer",
    "InnerPoint",
    "InnerState",
    "InnerStep",
    "LMConfig",
    "LevenbergMarquardt",
    "RateSchedule",
    "StepAdjoint",
    "StepObserver",
    "StepRecord",
    "TTOStatus",
    "Trajectory",
    "ViewSampler",
    "ViewSampling",
    "first_gradient",
    "rerun_steps",
    "run_trajectory",
    "training_steps",
]
