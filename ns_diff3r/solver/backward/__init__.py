# SPDX-License-Identifier: Apache-2.0
"""Backward modes: their contract, and one file each."""

from collections.abc import Callable

from .adjoint import Adjoint
from .combinations import THROUGH_STEPS
from .config import BackwardConfig, MetaGradConfig
from .first_order import FirstOrder
from .implicit import Implicit
from .metagrad import AnchorObserver, MetaGrad, OuterLoss
from .none import NoBackward
from .protocol import BackwardInfo, BackwardMode, BackwardPass, BackwardResult, FinishedTTO
from .truncated import Truncated
from .unroll import Unroll

_PASSES: dict[BackwardMode, Callable[[BackwardConfig], BackwardPass]] = {
    BackwardMode.IMPLICIT: lambda _: Implicit(),
    BackwardMode.ADJOINT: Adjoint,
    BackwardMode.TRUNCATED: Truncated,
    BackwardMode.UNROLL: lambda _: Unroll(),
    BackwardMode.FIRST_ORDER: lambda _: FirstOrder(),
    BackwardMode.METAGRAD: lambda _: MetaGrad(),
    BackwardMode.NONE: lambda _: NoBackward(),
}


def make_backward_pass(mode: BackwardMode, config: BackwardConfig | None = None) -> BackwardPass:
    """The implementation of a mode."""
    return _PASSES[BackwardMode(mode)](config or BackwardConfig())


__all__ = [
    "THROUGH_STEPS",
    "Adjoint",
    "AnchorObserver",
    "BackwardConfig",
    "BackwardInfo",
    "BackwardMode",
    "BackwardPass",
    "BackwardResult",
    "FinishedTTO",
    "FirstOrder",
    "Implicit",
    "MetaGrad",
    "MetaGradConfig",
    "NoBackward",
    "OuterLoss",
    "Truncated",
    "Unroll",
    "make_backward_pass",
]
