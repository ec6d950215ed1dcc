# SPDX-License-Identifier: Apache-2.0
"""What the passes of the CUDA backend have to move and to compute, for comparison with what a card reaches.

Bytes are those that must pass between a multiprocessor and memory if nothing stays in a cache: records, tangents,
entries, slots, parameters, pixels. Operations are counted from the formulas (docs/cuda.md): per contributing pair, per
evaluated pixel that a pair does not reach, and per visible (view, Gaussian); an exponential counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

RECORD, TANGENTS, SLOT, MOMENTS = 48, 48, 48, 144
"""Bytes of a record and of what goes with it."""
ENTRY = 10
"""Bytes of a tile's entry with its mask."""
MISSED = 16
"""Operations for a pixel that a pair turns out not to reach."""
PAIR = {"render": 30, "jvp": 46, "vjp": 44, "diagonal": 119}
"""Operations of a contributing pair, alpha included."""


class Work(NamedTuple):
    """Sizes of a problem."""

    gaussians: int
    numbers: int  # floats of one Gaussian
    records: int
    intersections: int
    lanes: int  # pixels that the kernels evaluate, sixteen of every cell that an entry can reach
    pairs: int  # of those, the ones that contribute
    pixels: int


class Cost(NamedTuple):
    """Of one pass."""

    bytes: float
    operations: float


def costs(work: Work) -> dict[str, Cost]:
    """Of the passes that have a model."""
    parameters = 4 * work.numbers * work.gaussians
    bases = (work.numbers - 11) / 3
    missed = MISSED * (work.lanes - work.pairs)
    read = work.intersections * (ENTRY + RECORD)
    forward_chain, backward_chain = (work.records * (base + 6 * bases) for base in (400, 500))
    slots = 2 * work.intersections * SLOT  # written, and gathered
    jvp = Cost(
        2 * parameters + 2 * work.records * TANGENTS / 2 + read + work.intersections * TANGENTS + 16 * work.pixels,
        work.pairs * PAIR["jvp"] + missed + forward_chain,
    )
    vjp = Cost(
        2 * parameters + read + slots + 20 * work.pixels,
        work.pairs * PAIR["vjp"] + missed + backward_chain,
    )
    product = Cost(jvp.bytes + vjp.bytes - 8 * work.pixels, jvp.operations + vjp.operations)
    diagonal = Cost(
        2 * parameters + read + 2 * work.intersections * MOMENTS + 20 * work.pixels,
        work.pairs * PAIR["diagonal"] + missed + 2 * backward_chain,
    )
    # finish 4, update 8, direction 3 passes over a vector
    iteration = Cost(product.bytes + 15 * parameters, product.operations + 12 * work.numbers * work.gaussians)
    return {
        "render": Cost(read + 28 * work.pixels, work.pairs * PAIR["render"] + missed),
        "jvp": jvp,
        "vjp": vjp,
        "gauss_newton": product,
        "diagonal": diagonal,
        "pcg16": Cost(diagonal.bytes + 16 * iteration.bytes, diagonal.operations + 16 * iteration.operations),
    }


def cache_of_3dgs_lm(work: Work) -> dict[str, float]:
    """GB that 3DGS-LM's cache of pairs takes for this problem, at rest and while it is sorted."""
    records = 228 * work.records
    return {"resident GB": (12 * work.pairs + records) / 1e9, "sorting GB": (44 * work.pairs + records) / 1e9}


def ceilings(timer: Callable[[Callable[[], object]], float], device: str, small: bool) -> dict[str, float]:
    """What the card itself reaches: GB/s of a copy (read and written), GFLOP/s of a float32 matrix product."""
    size, side = (1 << 14, 64) if small else (1 << 28, 8192)
    a = torch.rand(size, device=device)
    b = torch.empty_like(a)
    m = torch.rand(side, side, device=device)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return {
            "copy GB/s": 8 * size / timer(lambda: b.copy_(a)) / 1e6,
            "float32 GFLOP/s": 2 * side**3 / timer(lambda: m @ m) / 1e6,
        }
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
