# SPDX-License-Identifier: Apache-2.0
"""Real spherical harmonics up to degree 4 in the order and with the signs of gsplat and the original 3DGS.

Coefficient l² + l + m belongs to degree l and order m = -l … l. With (x + iy)^m = C_m + i S_m and P_l^(m) the m-th
derivative of the Legendre polynomial,

    Y_lm = (-1)^m √(2 - δ_m0) √((2l+1)/4π · (l-|m|)!/(l+|m|)!) P_l^(|m|)(z) · (C_m for m ≥ 0, S_|m| for m < 0).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

MAX_SH_DEGREE = 4
SH_C0 = 0.5 / math.sqrt(math.pi)
"""The constant harmonic; colour = 0.5 + SH_C0 · sh0 at degree 0."""


@cache
def _polynomial_in_z(degree: int, order: int) -> tuple[float, ...]:
    """Coefficients of normalisation × P_l^(m)(z), highest power first."""
    square = (2 * degree + 1) / (4 * math.pi) * math.factorial(degree - order) / math.factorial(degree + order)
    normalisation = (-1) ** order * math.sqrt(square * (2 if order else 1))
    legendre = np.polynomial.legendre.leg2poly([0] * degree + [1])
    derivative = np.polynomial.polynomial.polyder(legendre, order)
    return tuple(float(normalisation * coefficient) for coefficient in reversed(derivative))


def _evaluate_polynomial(coefficients: tuple[float, ...], z: Tensor) -> Tensor:
    value = torch.full_like(z, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * z + coefficient
    return value


def spherical_harmonics_basis(degree: int, directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch K"]:
    """Values of all harmonics up to `degree` in `directions`, which are normalised inside.

    Raises:
        ValueError: degree not 0 to 4.
    """
    if not 0 <= degree <= MAX_SH_DEGREE:
        raise ValueError(f"SH degree must be 0 to {MAX_SH_DEGREE}, got {degree}")
    x, y, z = normalize(directions, dim=-1).unbind(-1)
    cosines, sines = [torch.ones_like(z)], [torch.zeros_like(z)]  # C_m and S_m
    for _ in range(degree):
        cosines, sines = (
            [*cosines, x * cosines[-1] - y * sines[-1]],
            [*sines, x * sines[-1] + y * cosines[-1]],
        )
    values = []
    for band in range(degree + 1):
        in_z = [_evaluate_polynomial(_polynomial_in_z(band, order), z) for order in range(band + 1)]
        values += [in_z[order] * sines[order] for order in range(band, 0, -1)]
        values += [in_z[order] * cosines[order] for order in range(band + 1)]
    return torch.stack(values, dim=-1)


def spherical_harmonics(
    degree: int, directions: Float[Tensor, "*batch 3"], coefficients: Float[Tensor, "*batch K 3"]
) -> Float[Tensor, "*batch 3"]:
    """Σ_k Y_k(direction) coefficients_k over the harmonics up to `degree`, without the 0.5 offset of colours.

    `directions` are normalised inside; coefficients beyond `degree` are ignored. Differentiable in both.

    Raises:
        ValueError: degree not 0 to 4, or fewer than (degree + 1)² coefficients.
    """
    count = (degree + 1) ** 2
    if coefficients.shape[-2] < count:
        raise ValueError(f"SH degree {degree} needs {count} coefficients, got {coefficients.shape[-2]}")
    basis = spherical_harmonics_basis(degree, directions)
    return (basis[..., None] * coefficients[..., :count, :]).sum(-2)


def rgb_to_sh0(colors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Coefficient of the constant harmonic that shows `colors`."""
    return (colors - 0.5) / SH_C0


def sh0_to_rgb(sh0: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Colour that the constant harmonic alone shows."""
    return 0.5 + SH_C0 * sh0


def spherical_harmonics_rotation(degree: int, rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "K K"]:
    """Orthogonal matrix M, block-diagonal by degree, that rotates coefficients: Σ Y_k(Rd) (Mc)_k = Σ Y_k(d) c_k.

    The harmonics of one degree are closed under rotation, so B(D) M = B(R⁻¹D) has an exact solution on any set D of
    enough directions; D is a fixed, well-spread set, the arithmetic float64. Returned in the dtype of `rotation`.
    """
    directions, inverse_bands = _fitting_set(degree, str(rotation.device))
    # Rows dᵀR = (R⁻¹d)ᵀ. Autocast leaves float64 products alone.
    basis = spherical_harmonics_basis(degree, directions @ rotation.detach().double())
    matrix = basis.new_zeros(basis.shape[-1], basis.shape[-1])
    for band, inverse in enumerate(inverse_bands):
        block = slice(band**2, (band + 1) ** 2)
        matrix[block, block] = inverse @ basis[:, block]
    return matrix.to(rotation.dtype)


@cache
def _fitting_set(degree: int, device: str) -> tuple[Float[Tensor, "D 3"], list[Float[Tensor, "2*band+1 D"]]]:
    """Well-spread directions, and for every degree the pseudo-inverse of its harmonics there; float64."""
    directions = _spread_directions(64)
    basis = spherical_harmonics_basis(degree, directions)
    inverses = [torch.linalg.pinv(basis[:, band**2 : (band + 1) ** 2]).to(device) for band in range(degree + 1)]
    return directions.to(device), inverses


def _spread_directions(count: int) -> Float[Tensor, "D 3"]:
    """Directions of a Fibonacci lattice on the sphere, float64."""
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)
