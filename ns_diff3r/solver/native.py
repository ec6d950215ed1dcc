# SPDX-License-Identifier: Apache-2.0
"""The one place where the solver reaches into the compiled extension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import extension

_SUFFIXES = {torch.float32: "_float32", torch.float64: "_float64"}


def is_native(tensor: Tensor) -> bool:
    """Whether the compiled CPU loops work on this tensor (elsewhere the same operations are written in torch)."""
    return tensor.device.type == "cpu"


def native(name: str, dtype: torch.dtype) -> Callable[..., Any]:
    """The compiled function `name` for float32 or float64; TypeError for other dtypes."""
    if dtype not in _SUFFIXES:
        raise TypeError(f"{name} works on float32 and float64, not {dtype}")
    return getattr(extension.cpu(), name + _SUFFIXES[dtype])


def address(tensor: Tensor | None, like: Tensor) -> int:
    """Address of a contiguous tensor with the dtype, device and size of `like`; 0 for None. ValueError otherwise."""
    if tensor is None:
        return 0
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(f"mixed tensors: {tensor.dtype} on {tensor.device}, {like.dtype} on {like.device}")
    if tensor.numel() != like.numel() or not tensor.is_contiguous():
        raise ValueError(f"contiguous tensors of one size are needed, got {list(tensor.shape)} and {list(like.shape)}")
    return tensor.data_ptr()
