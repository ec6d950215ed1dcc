# SPDX-License-Identifier: Apache-2.0
"""Inner optimisers: their contract, Adam, SGD, Gauss-Newton, and the loop that runs them."""

from .adam import Adam
from .gauss_newton import GaussNewton
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
from .sgd import SGD
from .trajectory import Trajectory, TTOStatus, rerun_steps, run_trajectory

__all__ = [
    "SGD",
    "Adam",
    "DifferentiableOptimizer",
    "GaussNewton",
    "InnerOptimizer",
    "InnerPoint",
    "InnerState",
    "InnerStep",
    "StepAdjoint",
    "StepObserver",
    "StepRecord",
    "TTOStatus",
    "Trajectory",
    "rerun_steps",
    "run_trajectory",
]
