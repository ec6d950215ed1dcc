# SPDX-License-Identifier: Apache-2.0
"""How kernels of the CUDA modules are reached from tensors: which module, its suffix, the stream, checked addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from . import extension

_SUFFIXES = {torch.float32: "_float32", torch.float64: "_float64"}


def module_for(device: torch.device) -> ModuleType:
    """The kernels for tensors of this device: on the CPU the same ones, executed thread by thread (for tests)."""
    return extension.cuda() if device.type == "cuda" else extension.cuda_host()


def suffix_for(dtype: torch.dtype, device: torch.device) -> str:
    """Ending of the names of one precision; TypeError for one that the kernels of the device do not have."""
    if dtype not in _SUFFIXES or (device.type == "cuda" and dtype != torch.float32):
        raise TypeError(f"the CUDA backend computes in float32, not {dtype}: convert with .to(dtype=torch.float32)")
    return _SUFFIXES[dtype]


@contextmanager
def current_stream(device: torch.device) -> Iterator[int]:
    """The handle of torch's current stream on `device`, which is made the current one; 0 on the CPU."""
    if device.type != "cuda":
        yield 0
        return
    with torch.cuda.device(device):
        # Our runtime is not torch's. A thread of autograd's may not have told the driver yet which device it means.
        extension.cuda().use_device(torch.cuda.current_device())
        yield torch.cuda.current_stream(device).cuda_stream


def usable(tensor: Tensor) -> bool:
    """Whether the device kernels work on this tensor."""
    return tensor.device.type == "cuda" and tensor.dtype == torch.float32 and extension.has_cuda()
