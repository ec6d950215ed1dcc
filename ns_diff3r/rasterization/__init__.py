# SPDX-License-Identifier: Apache-2.0
"""Drawing Gaussians and multiplying with the drawing's Jacobian; the only package that knows which backend does it."""

from .config import PRESETS, RasterizationConfig, resolve_preset
from .protocol import GaussianBlocks, Linearization, Rendering, SymmetricImageOperator, Weights
from .render import linearize, render

__all__ = [
    "PRESETS",
    "GaussianBlocks",
    "Linearization",
    "RasterizationConfig",
    "Rendering",
    "SymmetricImageOperator",
    "Weights",
    "linearize",
    "render",
    "resolve_preset",
]
