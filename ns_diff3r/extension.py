# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels: found on first use, never at import of the package."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType


@lru_cache(maxsize=1)
def cpu() -> ModuleType:
    """The CPU kernels (`ns_diff3r._cpu`).

    Raises:
        ImportError: the package was not built; says how to build it.
    """
    try:
        return import_module("ns_diff3r._cpu")
    except ImportError as error:
        raise ImportError(
            "ns_diff3r's compiled CPU part is missing or does not fit this Python: install the package with "
            f"`pip install .` from its source folder ({error})"
        ) from error


def device_types() -> tuple[str, ...]:
    """Types of torch devices that the kernels of this installation draw on; the machine need not have one."""
    return ("cpu",)


def num_threads() -> int:
    """How many threads the CPU kernels use: torch's own setting."""
    import torch

    return torch.get_num_threads()


def describe() -> str:
    """One line: which kernels are used and why."""
    return f"CPU kernels, {cpu().instruction_set()} instructions, {num_threads()} threads"
