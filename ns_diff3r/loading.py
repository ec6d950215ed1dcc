# SPDX-License-Identifier: Apache-2.0
"""Weights into a model, with every key that does not fit named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

SHOWN = 4
"""Names of each kind in a message."""


@dataclass(frozen=True)
class KeyReport:
    """How a stored state compares with a module's."""

    missing: list[str]
    """In the module, not in the state."""
    unexpected: list[str]
    """In the state, not in the module."""
    reshaped: list[str]
    """In both, of different shapes (given with the name)."""
    matching: int
    """In both, of one shape."""

    @property
    def fits(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = []
        for kind, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.reshaped),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                parts.append(f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
        return "; ".join(parts) or "all keys match"


def compare(module: nn.Module, state: Mapping[str, Tensor]) -> KeyReport:
    """Which keys of `state` fit `module`."""
    own = module.state_dict()
    both = [name for name in own if name in state]
    reshaped = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in both
        if state[name].shape != own[name].shape
    ]
    return KeyReport(
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        reshaped=reshaped,
        matching=len(both) - len(reshaped),
    )


def load(module: nn.Module, state: Mapping[str, Tensor]) -> KeyReport:
    """Load weights that fit. Keys that only one side has are left out and reported where they hold no parameter.

    Raises:
        ValueError: nothing fits (a checkpoint of another method), or a parameter is missing, unknown or of another
            shape (another backbone or other settings); the message names the keys.
    """
    report = compare(module, state)
    parameters = dict(module.named_parameters())
    if not any(name in state and state[name].shape == p.shape and p.numel() for name, p in parameters.items()):
        some = ", ".join(list(state)[:SHOWN]) or "none"
        raise ValueError(f"a checkpoint of another method: nothing in it belongs to this model (its keys: {some}, …)")
    lacking = [name for name in report.missing if name in parameters and parameters[name].numel()]
    if lacking or report.unexpected or report.reshaped:
        raise ValueError(f"the checkpoint does not fit this model (another backbone, or other settings): {report}")
    module.load_state_dict(dict(state), strict=False)
    return report
