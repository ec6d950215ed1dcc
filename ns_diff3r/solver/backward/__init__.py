# SPDX-License-Identifier: Apache-2.0
"""Backward modes: their contract, and one file each."""

from .implicit import Implicit
from .protocol import BackwardInfo, BackwardMode, BackwardPass, BackwardResult, FinishedTTO

BACKWARD_PASSES: dict[BackwardMode, BackwardPass] = {
    BackwardMode.IMPLICIT: Implicit(),
}
"""The implementation of every mode."""

__all__ = [
    "BACKWARD_PASSES",
    "BackwardInfo",
    "BackwardMode",
    "BackwardPass",
    "BackwardResult",
    "FinishedTTO",
    "Implicit",
]
