# SPDX-License-Identifier: Apache-2.0
"""Test-time optimisation and its derivative: losses, prior, normal operator, PCG, inner optimisers, backward modes."""

from .backward import BackwardConfig, BackwardInfo, BackwardMode, MetaGradConfig
from .config import LearningRates, TTOConfig
from .differentiable_tto import DifferentiableTTO
from .image_loss import ImageLoss
from .inner import TTOStatus
from .pcg import PCGConfig, PCGStatus
from .solution import TTOBatchSolution, TTOSolution

__all__ = [
    "BackwardConfig",
    "BackwardInfo",
    "BackwardMode",
    "DifferentiableTTO",
    "ImageLoss",
    "LearningRates",
    "MetaGradConfig",
    "PCGConfig",
    "PCGStatus",
    "TTOBatchSolution",
    "TTOConfig",
    "TTOSolution",
    "TTOStatus",
]
