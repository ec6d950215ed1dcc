# SPDX-License-Identifier: Apache-2.0
"""Inner optimisers: their contract, Adam, SGD, Gauss-Newton, and the loop that runs them."""

from .adam import Adam
from .gauss_newton import GaussNewton
from .protocol import InnerOptimizer, InnerPoint, InnerState, InnerStep
from .sgd import SGD
from .trajectory import Trajectory, TTOStatus, run_trajectory

__all__ = [
    "SGD",
    "Adam",
    "GaussNewton",
    "InnerOptimizer",
    "InnerPoint",
    "InnerState",
    "InnerStep",
    "TTOStatus",
    "Trajectory",
    "run_trajectory",
]
