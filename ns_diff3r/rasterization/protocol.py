# SPDX-License-Identifier: Apache-2.0
"""What every renderer backend offers: a rendering, and a linearisation of it for second-order work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..splats import Cameras, Gaussians
from .config import RasterizationConfig

Freeze = Literal["order", "pairs"]
"""What a linearisation's `.render` and `.at` keep at other points: depth order and lists, or all its decisions."""


@dataclass(frozen=True, eq=False)
class Rendering:
    """The images of all views."""

    rgb: Float[Tensor, "V H W 3"]
    """Σ w c + (1 − alpha)·background, not clamped from above."""
    alpha: Float[Tensor, "V H W 1"]
    """Σ w, in [0, 1)."""
    depth: Float[Tensor, "V H W 1"]
    """Expected camera z: Σ w z / max(Σ w, 1e-10); 0 where nothing contributes."""


@dataclass(frozen=True, eq=False)
class GaussianBlocks:
    """The blocks of JᵀWJ on its diagonal that a block-Jacobi preconditioner uses, one set per Gaussian."""

    geometry: Float[Tensor, "N 11 11"]
    """Rows and columns: means 3, quats 4, scales 3, opacity 1."""
    sh: Float[Tensor, "N 3 K K"]
    """One block per colour channel over the K coefficients (sh0, then shN); W couples no channels here."""


class SymmetricImageOperator(Protocol):
    """A symmetric positive semi-definite linear map on stacks of images (the weights W of JᵀWJ)."""

    def __call__(self, images: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V H W 3"]:
        """W·images."""
        ...

    def diagonal(self) -> Float[Tensor, "V H W 3"]:
        """The diagonal of W."""
        ...


Weights = torch.Tensor | SymmetricImageOperator
"""W as a tensor [V, H, W, 3] of weights >= 0 (a diagonal W), or as an operator."""


class Linearization(Protocol):
    """The renderer around one point θ, with every discrete decision taken there ("plan once, multiply many times").

    R is the stack of rendered rgb images and J = ∂R/∂θ with respect to the raw parameters. In all products the depth
    order, tile lists, contributing pairs, stop indices, alpha caps, colour clamps and slope clamps are those at θ, so
    that R is a smooth function. No product contains the 1/n of a mean loss or a prior.
    """

    @property
    def gaussians(self) -> Gaussians:
        """The point θ, detached."""
        ...

    @property
    def cameras(self) -> Cameras:
        """The views."""
        ...

    @property
    def config(self) -> RasterizationConfig:
        """The semantics."""
        ...

    @property
    def rgb(self) -> Float[Tensor, "V H W 3"]:
        """R(θ), background included."""
        ...

    @property
    def visible(self) -> Bool[Tensor, "N"]:
        """Whether a Gaussian contributes to at least one pixel of a view."""
        ...

    def render(self, gaussians: Gaussians) -> Rendering:
        """R at another point, with the frozen order and tile lists (freeze="order"), or all decisions frozen ("pairs").

        A frozen capped alpha stays at the cap; with `config.gradient_through_cap` it is o·exp(−σ) minus what the cap
        took off at θ, the function whose derivative J is.
        Differentiable by autograd with respect to `gaussians`.
        """
        ...

    def at(self, gaussians: Gaussians, freeze: Freeze | None = None) -> Linearization:
        """The linearisation of the frozen function at another point (a replayed inner step).

        Args:
            gaussians: the point, of the same shape.
            freeze: what it keeps of this one: depth order and lists ("order": pairs, caps and clamps are decided anew
                among the pixels that the lists held, whole tiles or smaller blocks), or all decisions ("pairs");
                None: as this one was made. Its own `.render` and `.at` keep the same.
        """
        ...

    def to(self, dtype: torch.dtype) -> Linearization:
        """This point in another precision, everything decided as here; its `.render` and `.at` keep all decisions.

        Where a pair lies at a threshold, rounding alone decides; two precisions are compared with the same decisions.

        Raises:
            TypeError: a backend that cannot (CUDA).
        """
        ...

    def jvp(self, v: Gaussians) -> Float[Tensor, "V H W 3"]:
        """J v."""
        ...

    def vjp(self, u: Float[Tensor, "V H W 3"]) -> Gaussians:
        """Jᵀ u."""
        ...

    def vjp_cameras(self, u: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V 6"]:
        """Gradient of ⟨u, R⟩ at ξ = 0 where viewmat(ξ) = exp(ξ^)·viewmat and ξ = (v, ω), translation first."""
        ...

    def gauss_newton(self, v: Gaussians, weights: Weights) -> Gaussians:
        """JᵀWJ v."""
        ...

    def diagonal(self, weights: Weights) -> Gaussians:
        """The diagonal of JᵀWJ; of an operator W only its diagonal is used."""
        ...

    def blocks(self, weights: Weights) -> GaussianBlocks:
        """Per-Gaussian diagonal blocks of JᵀWJ; of an operator W only its diagonal is used."""
        ...

    def vjp_tangent(self, v: Gaussians, u: Float[Tensor, "V H W 3"], du: Float[Tensor, "V H W 3"]) -> Gaussians:
        """Jᵀ du + d/dε J(θ + εv)ᵀ u: with du = H_loss J v, an exact Hessian-vector product of any image loss."""
        ...
