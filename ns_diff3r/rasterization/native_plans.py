# SPDX-License-Identifier: Apache-2.0
"""What a linearisation hands to the compiled code: a plan whose memory is used again, addresses, backgrounds."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import extension
from ..splats import Cameras, Gaussians

Addresses = tuple[int, int, int, int, int, int]

# Plans keep their work memory; finished linearisations hand theirs to the next one of their dtype, since a training
# step or an inner loop makes one after the other and fresh pages cost about as much as the kernels that fill them.
_idle_plans: dict[torch.dtype, deque[Any]] = {torch.float32: deque(maxlen=2), torch.float64: deque(maxlen=2)}


def release_workspaces() -> None:
    """Give the work memory of finished linearisations back to the system."""
    for plans in _idle_plans.values():
        plans.clear()


def new_plan(dtype: torch.dtype) -> Any:
    """A compiled plan, with the work memory of a finished one where there is such.

    Raises:
        TypeError: neither float32 nor float64.
    """
    if dtype not in _idle_plans:
        raise TypeError(f"the native backend computes in float32 or float64, not {dtype}")
    with suppress(IndexError):  # not "if there is one": another thread may take it in between
        return _idle_plans[dtype].pop()
    module = extension.cpu()
    return module.PlanFloat32() if dtype == torch.float32 else module.PlanFloat64()


def retire_plan(dtype: torch.dtype, plan: Any) -> None:
    """Keep the work memory of a finished linearisation for the next one."""
    _idle_plans[dtype].append(plan)


def addresses(gaussians: Gaussians) -> Addresses:
    """Where the six leaves lie in memory; they must be contiguous, and stay alive while C++ uses them."""
    means, quats, scales, opacities, sh0, shN = (leaf.data_ptr() for leaf in gaussians.leaves())
    return means, quats, scales, opacities, sh0, shN


def background_per_view(
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None, cameras: Cameras
) -> Float[Tensor, "V 3"]:
    """The background of every view, float64; black without one. ValueError for another shape or non-finite values."""
    if background is None:
        return torch.zeros(cameras.num_views, 3, dtype=torch.float64)
    value = torch.as_tensor(background, dtype=torch.float64).detach()
    if value.device.type != "cpu" and value.device != cameras.device:
        raise ValueError(f"the native backend draws on {cameras.device}; the background is on {value.device}")
    if tuple(value.shape) not in ((3,), (cameras.num_views, 3)):
        raise ValueError(f"background must be [3] or [{cameras.num_views}, 3], got {list(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError("background must be finite")
    return value.expand(cameras.num_views, 3).contiguous().cpu()
