# SPDX-License-Identifier: Apache-2.0
"""Approximate inverses M⁻¹ of the normal operator A = B + Λ, built once for a solve.

With a prior, M is by default not the diagonal (or block diagonal) D of A but the geometric mean of Λ and D, for numbers
sqrt(Λ D). Gaussians overlap: what one of them could explain alone is mostly explained by its neighbours too, so that D
overestimates the curvature that is left once these follow, while Λ underestimates it. Measured (docs/benchmarks.md) the
mean saves 30 to 45 % of the iterations at any λ, and the gradient is better at an equal residual.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..splats.eigen import symmetric_eigen
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


def make_preconditioner(
    kind: PreconditionerKind, operator: NormalOperator, geometric_mean: bool = True
) -> Preconditioner:
    """The preconditioner of this name; ValueError for an unknown one.

    Args:
        kind: see `PCGConfig.preconditioner`.
        operator: A.
        geometric_mean: M is the mean of Λ and the diagonal of A instead of that diagonal; needs a prior, otherwise it
            is without effect.
    """
    geometric_mean = geometric_mean and operator.strength is not None
    if kind == "none":
        return Identity()
    if kind == "jacobi":
        diagonal = operator.diagonal()
        if geometric_mean and operator.strength is not None:
            diagonal = operator.mask_((diagonal * operator.strength).sqrt_())
        return Jacobi(diagonal)
    if kind == "block_jacobi":
        return BlockJacobi(operator, geometric_mean)
    raise ValueError(f'the preconditioner must be "none", "jacobi" or "block_jacobi", not {kind!r}')


class Identity:
    """M = I."""

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = r; return ⟨r, r⟩."""
        z.copy_(r)
        return vector_ops.dot(r, r)


class Jacobi:
    """M = a diagonal; rows where it is zero (frozen, or seen by nothing) are left alone."""

    def __init__(self, diagonal: Float[Tensor, " P"]) -> None:
        self.inverse = torch.where(diagonal > 0, diagonal, 1.0).reciprocal_()

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = r / diagonal; return ⟨r, z⟩."""
        return vector_ops.diagonal_solve(self.inverse, r, z)


class BlockJacobi:
    """M = blocks of every Gaussian: geometry 11x11, and KxK per colour channel; frozen rows are cut out.

    With B a block of (1/n) JᵀWJ and Λ^-½ B Λ^-½ = V diag(b) Vᵀ, M = Λ^½ V diag(1 + b)^p Vᵀ Λ^½: for p = 1 the block of
    A, for p = ½ the geometric mean of Λ and that block. Negative b, which only rounding makes, count as 0. Without a
    prior, M is the block itself, and what it leaves undetermined is scaled by its diagonal. `num_clamped` counts both.
    """

    def __init__(self, operator: NormalOperator, geometric_mean: bool) -> None:
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
            make(blocks.geometry, geometry_rows, 1, operator, geometric_mean),
            make(colour_blocks, colour_rows, 3, operator, geometric_mean),
        ]
        self.num_clamped = sum(part.num_clamped for part in self.parts)

    def solve(self, r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
        """Write z = M⁻¹ r (0 in frozen rows, where r must be 0); return ⟨r, z⟩."""
        return sum(part.solve(r, z) for part in self.parts)

    @property
    def dense(self) -> list[tuple[Float[Tensor, "B S S"], list[Row], int]] | None:
        """Inverse, rows and inner of both kinds of blocks, where they are kept as whole matrices (not on the CPU)."""
        return [part.dense for part in self.parts if isinstance(part, _TorchBlocks)] or None


Row = tuple[int, int, bool]
"""(offset, stride, frozen): row j of block b is flat element offset + (b // inner)·stride + b % inner."""


class _NativeBlocks:
    """Blocks of one size, by csrc/cpu/small_blocks."""

    LANES = 16

    def __init__(
        self,
        blocks: Float[Tensor, "B S S"],
        rows: list[Row],
        inner: int,
        operator: NormalOperator,
        geometric_mean: bool,
    ) -> None:
        blocks, strength = blocks.contiguous(), operator.strength
        num_blocks, size = blocks.shape[0], blocks.shape[1]
        self.layout = (num_blocks, size, inner, rows)
        tiles = -(-num_blocks // self.LANES)
        self.inverse = blocks.new_empty(tiles * self.LANES * (size * (size + 1) // 2))
        self.num_clamped: int = native("invert_blocks", blocks.dtype)(
            torch.get_num_threads(),
            *self.layout,
            1.0 / operator.num_residuals,
            geometric_mean,
            address(blocks, blocks),
            0 if strength is None else address(strength, strength),
            address(self.inverse, self.inverse),
        )

    def solve(self, r: Tensor, z: Tensor) -> float:
        vectors = (address(self.inverse, self.inverse), address(r, r), address(z, r))
        return native("apply_blocks", r.dtype)(torch.get_num_threads(), *self.layout, *vectors)


class _TorchBlocks:
    """The same in torch, for other devices."""

    def __init__(
        self,
        blocks: Float[Tensor, "B S S"],
        rows: list[Row],
        inner: int,
        operator: NormalOperator,
        geometric_mean: bool,
    ) -> None:
        device, strength = blocks.device, operator.strength
        index = torch.arange(blocks.shape[0], device=device)
        self.index = torch.stack([offset + index // inner * stride + index % inner for offset, stride, _ in rows], 1)
        self.free = ~torch.tensor([row[2] for row in rows], device=device)
        matrix = blocks / operator.num_residuals * (self.free[:, None] & self.free[None, :])
        diagonal = matrix.diagonal(dim1=-2, dim2=-1) if strength is None else strength[self.index]
        scaling = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
        values, vectors = symmetric_eigen(scaling[:, :, None] * matrix * scaling[:, None, :])
        tolerance = 8 * len(rows) * torch.finfo(blocks.dtype).eps * values.sum(-1, keepdim=True)
        if strength is None:
            useless = ~(values > tolerance)
            values = torch.where(useless, 1.0, values)
        else:
            useless = values < -tolerance
            values = values.clamp_min(0.0) + 1.0
        self.num_clamped = int(useless.sum())
        half = scaling[:, :, None] * vectors * values[:, None, :] ** (-0.25 if geometric_mean else -0.5)
        self.inverse = half @ half.transpose(-1, -2)
        self.dense = (self.inverse, rows, inner)

    def solve(self, r: Tensor, z: Tensor) -> float:
        part = r[self.index] * self.free
        solution = (self.inverse @ part[..., None])[..., 0] * self.free
        z[self.index] = solution
        return float((part.double() * solution.double()).sum())
