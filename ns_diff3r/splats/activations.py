# SPDX-License-Identifier: Apache-2.0
"""Gaussians from activated values, as networks and files give them. Differentiable.

Raw parameters are infinite where activated ones saturate, so values are clamped first, which also stops their gradient:

    opacities         to [OPACITY_MARGIN, 1 - OPACITY_MARGIN], logits to ±11.5
    scales            to at least SCALE_MIN, logarithms to at least -20.7
    eigenvalues       see `covariances.covariances_to_quats_scales`
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .covariances import SCALE_MIN, covariances_to_quats_scales
from .gaussians import Gaussians
from .spherical_harmonics import rgb_to_sh0

OPACITY_MARGIN = 1e-5
"""Smallest distance of an opacity to 0 and 1 in a conversion: far below 1/255, where renderers drop a Gaussian, and far
beyond their alpha caps (0.99, 0.999), yet with a logit whose gradient float32 still carries."""


def gaussians_from_activated(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    *,
    colors: Float[Tensor, "N 3"] | None = None,
    sh: Float[Tensor, "N K 3"] | None = None,
) -> Gaussians:
    """Gaussians from activated values.

    Args:
        means: [N, 3] world units.
        quats: [N, 4] wxyz, any length.
        scales: [N, 3] standard deviations, world units; clamped to at least SCALE_MIN.
        opacities: [N] (or [N, 1]) in [0, 1]; clamped OPACITY_MARGIN away from both ends.
        colors: [N, 3] RGB in [0, 1], seen from everywhere; or
        sh: [N, K, 3] spherical harmonics, K = 1, 4, 9, 16 or 25. Exactly one of the two.

    Half precision (autocast) is raised to float32.

    Raises:
        TypeError, ValueError: as the constructor of `Gaussians`; neither or both of colors and sh.
    """
    if (colors is None) == (sh is None):
        raise ValueError("Gaussians: give exactly one of colors and sh")
    if sh is None:
        assert colors is not None
        sh = rgb_to_sh0(_at_least_float32(colors))[..., None, :]
    if sh.ndim != 3:
        raise ValueError(f"Gaussians: sh must have shape [N, K, 3] and colors [N, 3], got {list(sh.shape)} as sh")
    if opacities.ndim == 2 and opacities.shape[1] == 1:
        opacities = opacities[:, 0]
    sh = _at_least_float32(sh)
    return Gaussians(
        means=_at_least_float32(means),
        quats=_at_least_float32(quats),
        scales=_at_least_float32(scales).clamp_min(SCALE_MIN).log(),
        opacities=_at_least_float32(opacities).clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN).logit(),
        sh0=sh[:, :1],
        shN=sh[:, 1:],
    )


def gaussians_from_covariances(
    means: Float[Tensor, "N 3"],
    covariances: Float[Tensor, "N 3 3"],
    opacities: Float[Tensor, " N"],
    *,
    colors: Float[Tensor, "N 3"] | None = None,
    sh: Float[Tensor, "N K 3"] | None = None,
) -> Gaussians:
    """Gaussians from world covariances [N, 3, 3]; the rest as `gaussians_from_activated`.

    The gradient through the decomposition is that of `covariances.covariances_to_quats_scales`.

    Raises:
        TypeError, ValueError: as `gaussians_from_activated`; a covariance is not finite.
    """
    if covariances.ndim != 3 or covariances.shape[1:] != (3, 3):
        raise ValueError(f"Gaussians: covariances must have shape [N, 3, 3], got {list(covariances.shape)}")
    quats, scales = covariances_to_quats_scales(_at_least_float32(covariances))
    return gaussians_from_activated(means, quats, scales, opacities, colors=colors, sh=sh)


def _at_least_float32(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
