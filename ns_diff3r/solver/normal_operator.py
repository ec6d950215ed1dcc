# SPDX-License-Identifier: Apache-2.0
"""A = (1/n) JᵀWJ + diag(Λ): the Gauss-Newton curvature of the inner loss, on flat vectors, never formed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..rasterization.protocol import GaussianBlocks, Linearization, Weights
from . import vector_ops


class NormalOperator:
    """A = (1/n) JᵀWJ + diag(Λ) restricted to the free groups: rows and columns of frozen ones are zero.

    Args:
        linearization: J, the renderer around θ.
        weights: W, without 1/n.
        num_residuals: n, the number of residuals the loss is averaged over.
        strength: Λ as a flat vector, or None for no prior.
        frozen: names of the attribute groups that do not move.
    """

    def __init__(
        self,
        linearization: Linearization,
        weights: Weights,
        num_residuals: int,
        strength: Float[Tensor, " P"] | None = None,
        frozen: Sequence[str] = (),
    ) -> None:
        self.linearization = linearization
        self.weights = weights
        self.num_residuals = num_residuals
        self.strength = strength
        self.frozen = frozenset(frozen)
        self.template = linearization.gaussians
        self.slices = self.template.group_slices()

    @property
    def size(self) -> int:
        """P, the length of the flat vectors."""
        return self.template.num_parameters

    def mask_(self, flat: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Set the frozen entries to zero, in place."""
        for name in self.frozen:
            flat[self.slices[name]] = 0
        return flat

    def __call__(self, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """A v."""
        if self.frozen:
            v = self.mask_(v.clone())
        out = self._gauss_newton(v)
        vector_ops.scale_add_diagonal(1.0 / self.num_residuals, self.strength, v, out)
        return self.mask_(out)

    def data_term(self, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """(1/n) JᵀWJ v over all groups, frozen or not, without the prior."""
        out = self._gauss_newton(v)
        vector_ops.scale_add_diagonal(1.0 / self.num_residuals, None, v, out)
        return out

    def _gauss_newton(self, v: Tensor) -> Tensor:
        return self.linearization.gauss_newton(self.template.unflatten(v), self.weights).flatten()

    def diagonal(self) -> Float[Tensor, " P"]:
        """diag(A), 0 in frozen rows. Of a non-diagonal W only its diagonal counts: then an approximation."""
        out = self.linearization.diagonal(self.weights).flatten().mul_(1.0 / self.num_residuals)
        if self.strength is not None:
            out += self.strength
        return self.mask_(out)

    def blocks(self) -> GaussianBlocks:
        """Per-Gaussian blocks of JᵀWJ as the renderer gives them: without 1/n, without Λ, all groups."""
        return self.linearization.blocks(self.weights)

    def dense(self) -> Float[Tensor, "P P"]:
        """A as a matrix, column by column: for tests and tiny problems."""
        identity = torch.eye(self.size, dtype=self.template.dtype, device=self.template.device)
        return torch.stack([self(column) for column in identity], dim=1)
