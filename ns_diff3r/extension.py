# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels: found on first use, never at import of the package."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
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


@lru_cache(maxsize=1)
def cuda() -> ModuleType:
    """The CUDA kernels (`ns_diff3r._cuda`). Only for when torch sees a device.

    Raises:
        ImportError: the package was built without them; says how to build it.
    """
    try:
        return import_module("ns_diff3r._cuda")
    except ImportError as error:
        raise ImportError(
            "ns_diff3r's compiled CUDA part is missing: install the package where nvcc (11.8 or newer) is found, or "
            f"keep Gaussians and cameras on the CPU ({error})"
        ) from error


@lru_cache(maxsize=1)
def cuda_host() -> ModuleType:
    """The CUDA kernels executed on the host, thread by thread (`ns_diff3r._cuda_host`): for tests.

    Raises:
        ImportError: the package was built without them.
    """
    try:
        return import_module("ns_diff3r._cuda_host")
    except ImportError as error:
        raise ImportError(
            f"the host-executed CUDA kernels were not built: configure with -DNS_DIFF3R_CUDA_HOST=ON ({error})"
        ) from error


@lru_cache(maxsize=1)
def has_cuda() -> bool:
    """Whether this installation has CUDA kernels; the machine need not have a device."""
    return find_spec("ns_diff3r._cuda") is not None


def device_types() -> tuple[str, ...]:
    """Types of torch devices that the kernels of this installation draw on; the machine need not have one."""
    return ("cpu", "cuda") if has_cuda() else ("cpu",)


def num_threads() -> int:
    """How many threads the CPU kernels use: torch's own setting."""
    import torch

    return torch.get_num_threads()


def describe() -> str:
    """One line: which kernels are used and why."""
    import torch

    host = f"CPU kernels, {cpu().instruction_set()} instructions, {num_threads()} threads"
    if not has_cuda():
        return f"{host}; built without CUDA kernels"
    if not torch.cuda.is_available():
        return f"{host}; CUDA kernels are installed, but torch sees no device"
    name, module = torch.cuda.get_device_name(), cuda()
    return f"CUDA kernels ({module.architectures()}) for tensors on {name}; {host} for others"
