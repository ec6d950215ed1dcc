# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of many small symmetric matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_BATCH = 16384
"""On a CUDA device: cuSOLVER refuses somewhat more than 32,000 matrices at once with CUSOLVER_STATUS_INVALID_VALUE."""


def symmetric_eigen(
    matrices: Float[Tensor, "*batch S S"],
) -> tuple[Float[Tensor, "*batch S"], Float[Tensor, "*batch S S"]]:
    """Ascending eigenvalues and eigenvectors (columns), as `torch.linalg.eigh`, of any number of matrices."""
    size = matrices.shape[-1]
    if size == 1:
        return matrices[..., 0], torch.ones_like(matrices)
    if matrices.device.type == "cpu" or matrices.numel() <= LARGEST_BATCH * size**2:
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    parts = [torch.linalg.eigh(part) for part in matrices.reshape(-1, size, size).split(LARGEST_BATCH)]
    values, vectors = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)
