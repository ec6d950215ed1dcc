# SPDX-License-Identifier: Apache-2.0
"""Test-time optimisation and its derivative: losses, prior, normal operator, PCG, inner optimisers, backward modes."""

from .backward import BackwardInfo, BackwardMode
from .config import LearningRates, TTOConfig
from .differentiable_tto import DifferentiableTTO
from .image_loss import ImageLoss
from .inner import TTOStatus
from .pcg import PCGConfig, PCGStatus
from .solution import TTOBatchSolution, TTOSolution

__all__ = [
    "BackwardInfo",
    "BackwardMode",
    "DifferentiableTTO",
    "ImageLoss",
    "LearningRates",
    "PCGConfig",
    "PCGStatus",
    "TTOBatchSolution",
    "TTOConfig",
    "TTOSolution",
    "TTOStatus",
]
