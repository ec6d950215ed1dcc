# SPDX-License-Identifier: Apache-2.0
"""Approximate inverses M⁻¹ of the normal operator A, built once for a solve."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from . import vector_ops
from .native import address, is_native, native
from .normal_operator import NormalOperator

PreconditionerKind = Literal["none", "jacobi", "block_jacobi"]

GEOMETRY = (("means", 3), ("quats", 4), ("scales", 3), ("opacities", 1))
"""Rows of the 11x11 geometry block (`GaussianBlocks`)."""


class Preconditioner(Protocol):
    """M⁻¹, symmetric positive definite."""

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = M⁻¹ r and return ⟨r, z⟩ in float64."""
        ...


def make_preconditioner(kind: PreconditionerKind, operator: NormalOperator) -> Preconditioner:
    """The preconditioner of this name; ValueError for an unknown one."""
    if kind == "none":
        return Identity()
    if kind == "jacobi":
        return Jacobi(operator.diagonal())
    if kind == "block_jacobi":
        return BlockJacobi(operator)
    raise ValueError(f'the preconditioner must be "none", "jacobi" or "block_jacobi", not {kind!r}')


class Identity:
    """M = I."""

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = r; return ⟨r, r⟩."""
        z.copy_(r)
        return vector_ops.dot(r, r)


class Jacobi:
    """M = diag(A); rows with a zero diagonal (frozen, or seen by nothing) are left alone."""

    def __init__(self, diagonal: Float[Tensor, " P"]) -> None:
        self.inverse = torch.where(diagonal > 0, diagonal, 1.0).reciprocal_()

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = r / diag(A); return ⟨r, z⟩."""
        return vector_ops.diagonal_solve(self.inverse, r, z)


class BlockJacobi:
    """M = the diagonal blocks of A: geometry 11x11 and one KxK block per colour channel, of every Gaussian.

    Λ is in the blocks, and frozen rows are cut out. Where rounding has made a pivot useless (a block that is singular
    up to a tiny Λ), that row falls back to its diagonal element; `num_replaced` counts them.
    """

    def __init__(self, operator: NormalOperator) -> None:
        template, blocks = operator.template, operator.blocks()
        num_gaussians, coefficients = template.num_gaussians, template.shN.shape[1] + 1
        first = {name: part.start for name, part in template.group_slices().items()}
        geometry_rows = [
            (first[name] + i, size, name in operator.frozen) for name, size in GEOMETRY for i in range(size)
        ]
        # Rows of a colour channel: element c of every coefficient triple; sh0 [N, 1, 3] first, then shN [N, K-1, 3].
        stride = 3 * (coefficients - 1)
        colour_rows = [(first["sh0"], 3, "sh0" in operator.frozen)]
        colour_rows += [(first["shN"] + 3 * k, stride, "shN" in operator.frozen) for k in range(coefficients - 1)]
        colour_blocks = blocks.sh.reshape(num_gaussians * 3, coefficients, coefficients)
        make = _NativeBlocks if is_native(blocks.geometry) else _TorchBlocks
        self.parts = [
            make(blocks.geometry, geometry_rows, 1, operator),
            make(colour_blocks, colour_rows, 3, operator),
        ]
        self.num_replaced = sum(part.num_replaced for part in self.parts)

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = M⁻¹ r (0 in frozen rows); return ⟨r, z⟩."""
        return sum(part.solve(r, z) for part in self.parts)


Row = tuple[int, int, bool]
"""(offset, stride, frozen): row j of block b is flat element offset + (b // inner)·stride + b % inner."""


class _NativeBlocks:
    """Blocks of one size, factored and solved by csrc/cpu/small_cholesky."""

    LANES = 16

    def __init__(self, blocks: Float[Tensor, "B S S"], rows: list[Row], inner: int, operator: NormalOperator) -> None:
        self.num_blocks, self.size = blocks.shape[0], blocks.shape[1]
        self.rows, self.inner = rows, inner
        blocks = blocks.contiguous()
        tiles = -(-self.num_blocks // self.LANES)
        self.factor = blocks.new_empty(tiles * self.LANES * (self.size * (self.size + 1) // 2))
        strength = 0 if operator.strength is None else address(operator.strength, operator.strength)
        self.num_replaced: int = native("cholesky_factor", blocks.dtype)(
            torch.get_num_threads(),
            self.num_blocks,
            self.size,
            inner,
            rows,
            1.0 / operator.num_residuals,
            address(blocks, blocks),
            strength,
            address(self.factor, self.factor),
        )

    def solve(self, r: Tensor, z: Tensor) -> float:
        call = native("cholesky_solve", r.dtype)
        vectors = (address(self.factor, self.factor), address(r, r), address(z, r))
        return call(torch.get_num_threads(), self.num_blocks, self.size, self.inner, self.rows, *vectors)


class _TorchBlocks:
    """The same in torch, for other devices; a block that is not positive definite falls back to its diagonal."""

    def __init__(self, blocks: Float[Tensor, "B S S"], rows: list[Row], inner: int, operator: NormalOperator) -> None:
        device = blocks.device
        index = torch.arange(blocks.shape[0], device=device)
        self.index = torch.stack([offset + index // inner * stride + index % inner for offset, stride, _ in rows], 1)
        frozen = torch.tensor([row[2] for row in rows], device=device)
        matrix = blocks / operator.num_residuals
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        if operator.strength is not None:
            diagonal += operator.strength[self.index]
        matrix = matrix.masked_fill(frozen[:, None] | frozen[None, :], 0.0)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        diagonal[diagonal <= 0] = 1.0  # frozen rows, and rows that nothing sees
        self.free = ~frozen
        self.factor, info = torch.linalg.cholesky_ex(matrix)
        failed = (info != 0) | ~self.factor.isfinite().all(-1).all(-1)
        self.factor[failed] = torch.diag_embed(diagonal[failed].sqrt())
        self.num_replaced = int(failed.sum())

    def solve(self, r: Tensor, z: Tensor) -> float:
        part = r[self.index] * self.free
        solution = torch.cholesky_solve(part[..., None], self.factor)[..., 0] * self.free
        z[self.index] = solution
        return float((part.double() * solution.double()).sum())
