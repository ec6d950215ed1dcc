# SPDX-License-Identifier: Apache-2.0
"""The flat layout of Gaussians: where each group lies in one vector, and when tensors already lie that way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.forward_ad import unpack_dual


def leaf_shapes(num_gaussians: int, sh_degree: int) -> dict[str, tuple[int, ...]]:
    """Group name → shape of its leaf, in the order of the flat layout."""
    num_rest = (sh_degree + 1) ** 2 - 1
    return {
        "means": (num_gaussians, 3),
        "quats": (num_gaussians, 4),
        "scales": (num_gaussians, 3),
        "opacities": (num_gaussians,),
        "sh0": (num_gaussians, 1, 3),
        "shN": (num_gaussians, num_rest, 3),
    }


def slices_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, slice], int]:
    """Group name → slice of the flat vector, and its length."""
    slices: dict[str, slice] = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        slices[name] = slice(start, stop)
        start = stop
    return slices, start


def as_one_view(leaves: Sequence[Tensor]) -> Tensor | None:
    """One vector sharing the storage of `leaves`, or None where a copy is needed.

    None when autograd (reverse or forward mode) watches a leaf: a view by storage would not carry its derivative.
    """
    filled = [leaf for leaf in leaves if leaf.numel()]
    if not filled or any(_is_watched(leaf) for leaf in leaves):
        return None
    first = filled[0]
    storage = first.untyped_storage().data_ptr()
    offset = first.storage_offset()
    for leaf in filled:
        in_place = leaf.is_contiguous() and leaf.storage_offset() == offset
        if not in_place or leaf.untyped_storage().data_ptr() != storage:
            return None
        offset += leaf.numel()
    with torch.no_grad():
        return first.as_strided((offset - first.storage_offset(),), (1,), first.storage_offset())


def _is_watched(leaf: Tensor) -> bool:
    if leaf.requires_grad and torch.is_grad_enabled():
        return True
    if is_functorch_wrapped_tensor(leaf):  # inside torch.func: no storage of its own
        return True
    return unpack_dual(leaf).tangent is not None


def broadcast_left(name: str, value: Tensor | float, leaf: Tensor) -> Tensor:
    """`value` expanded to the shape of `leaf`, its dimensions aligned with the leaf's first ones; ValueError if not."""
    value = torch.as_tensor(value, dtype=leaf.dtype, device=leaf.device)
    shape = tuple(value.shape)
    while len(shape) > leaf.ndim and shape[-1] == 1:  # [N, 1] for opacities [N]
        shape = shape[:-1]
    shape = shape + (1,) * (leaf.ndim - len(shape))
    if len(shape) != leaf.ndim or any(have not in (1, want) for have, want in zip(shape, leaf.shape, strict=True)):
        raise ValueError(f"Gaussians.{name}: {list(value.shape)} does not broadcast to {list(leaf.shape)}")
    return value.reshape(shape).expand(leaf.shape)
