# SPDX-License-Identifier: Apache-2.0
"""Checks shared by the containers: each failure is one sentence that names the object and the field."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float32, torch.float64)


def require_tensors(owner: str, tensors: Mapping[str, object]) -> None:
    """Raise TypeError unless every value is a tensor of one floating dtype, ValueError unless all share one device.

    Args:
        owner: name of the object under construction, for the message.
        tensors: field name → value.
    """
    first_name, first = "", None
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{owner}.{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.dtype not in FLOATING_DTYPES:
            hint = "; divide by 255 and convert to float" if value.dtype == torch.uint8 else ""
            raise TypeError(f"{owner}.{name} must be float32 or float64, got {value.dtype}{hint}")
        if first is None:
            first_name, first = name, value
        elif value.dtype != first.dtype:
            raise TypeError(
                f"{owner}: all fields need one dtype, but {first_name} is {first.dtype} and {name} is {value.dtype}"
            )
        elif value.device != first.device:
            raise ValueError(
                f"{owner}: all fields need one device, but {first_name} is on {first.device} "
                f"and {name} on {value.device}"
            )


def require_shape(owner: str, name: str, value: Tensor, expected: tuple[int | str, ...]) -> None:
    """Raise ValueError unless `value` has the expected shape; strings in `expected` stand for any size."""
    matches = value.ndim == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, value.shape, strict=True)
    )
    if not matches:
        wanted = ", ".join(str(size) for size in expected)
        raise ValueError(f"{owner}.{name} must have shape [{wanted}], got {list(value.shape)}")


def require_finite(owner: str, name: str, value: Tensor) -> None:
    """Raise ValueError naming the field and the number of NaN or infinite entries."""
    bad = int((~torch.isfinite(value.detach())).sum())
    if bad:
        raise ValueError(f"{owner}.{name} has {bad} non-finite value{'s' if bad > 1 else ''} of {value.numel()}")
