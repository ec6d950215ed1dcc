# SPDX-License-Identifier: Apache-2.0
"""Settings that exclude each other: refused when they are read, not after an hour."""

from __future__ import annotations

from .config import BackwardConfig
from .protocol import BackwardMode

THROUGH_STEPS = (BackwardMode.ADJOINT, BackwardMode.TRUNCATED, BackwardMode.UNROLL)
"""Modes that differentiate the steps of the inner optimiser."""
RECURRENCES = ("adam", "sgd")
"""Inner optimisers whose steps have an adjoint."""
TWICE_DIFFERENTIABLE = ("reference",)
"""Backends that autograd differentiates twice."""
REPEATABLE = ("auto", "native", "cuda", "reference")
"""Backends that give the same bits when a step is taken again; renderers that add atomically do not."""


def check_combination(mode: BackwardMode, config: BackwardConfig, optimizer: str, backend: str, num_steps: int) -> None:
    """Raise ValueError, naming the settings and what to do, if a mode cannot work with the rest."""
    if mode in THROUGH_STEPS and optimizer not in RECURRENCES:
        raise ValueError(
            f'backward_mode "{mode.value}" goes back through the steps of the inner optimiser, which is known for '
            f"{' and '.join(RECURRENCES)}, not for optimizer {optimizer!r}: choose one of these, or backward_mode "
            '"implicit", which needs a stationary result only'
        )
    if mode is BackwardMode.UNROLL and backend not in TWICE_DIFFERENTIABLE:
        raise ValueError(
            f'backward_mode "unroll" differentiates the renderer twice, and backend {backend!r} has no second '
            'derivatives by autograd: set backend "reference" (small scenes), or backward_mode "adjoint", which gives '
            "the same gradient on every backend"
        )
    recomputes = mode in (BackwardMode.ADJOINT, BackwardMode.TRUNCATED) and config.trajectory == "recomputation"
    if recomputes and backend not in REPEATABLE:
        raise ValueError(
            f'backward.trajectory "recomputation" takes steps again, and backend {backend!r} does not repeat its '
            'results to the bit: set backward.trajectory "snapshots", or another backend'
        )
    anchors = config.metagrad
    if mode is BackwardMode.METAGRAD:
        shortest = anchors.min_steps if anchors.random_horizon else num_steps
        if shortest < anchors.stride and not anchors.include_start:
            raise ValueError(
                f'backward_mode "metagrad": {shortest} inner steps reach no anchor at a stride of {anchors.stride}: '
                "lower backward.metagrad.stride, or take more steps"
            )
