# SPDX-License-Identifier: Apache-2.0
"""ns-diff3r: feed-forward 3D Gaussian splatting trained through differentiable test-time optimisation.

Names resolve on first use (PEP 562): nerfstudio imports this package in every one of its commands, most of which need
none of it, so `import ns_diff3r` must not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .rasterization import linearize, render
    from .solver import DifferentiableTTO, TTOConfig
    from .splats import Cameras, Gaussians, SparsePoints, Views

__version__ = "0.1.0"

_MODULES = {
    "Cameras": "splats",
    "Gaussians": "splats",
    "SparsePoints": "splats",
    "Views": "splats",
    "linearize": "rasterization",
    "render": "rasterization",
    "DifferentiableTTO": "solver",
    "TTOConfig": "solver",
}

__all__ = [
    "Cameras",
    "DifferentiableTTO",
    "Gaussians",
    "SparsePoints",
    "TTOConfig",
    "Views",
    "__version__",
    "linearize",
    "render",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
