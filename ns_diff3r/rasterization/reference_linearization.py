# SPDX-License-Identifier: Apache-2.0
"""The oracle's linearisation: every product by torch's own differentiation of the frozen dense renderer."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Cameras, Gaussians
from .config import RasterizationConfig
from .protocol import Freeze, GaussianBlocks, Rendering, Weights
from .reference import ViewPlan, background_per_view, plan_reference, render_views, visible_gaussians

DENSE_JACOBIAN_MAX = 1 << 27
"""Most entries of the explicit Jacobian that `diagonal` and `blocks` form."""


def linearize_reference(
    gaussians: Gaussians,
    cameras: Cameras,
    config: RasterizationConfig,
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None = None,
    freeze: Freeze = "order",
) -> ReferenceLinearization:
    """Linearise the dense renderer at `gaussians`; see `protocol.Linearization`.

    Args:
        freeze: what `render` of the result keeps from here: order and tile lists, or all decisions.

    Raises:
        ValueError: as `render_reference`, or an unknown `freeze`.
    """
    return ReferenceLinearization(gaussians, cameras, config, background, freeze)


class ReferenceLinearization:
    """`protocol.Linearization` by torch.func; `diagonal` and `blocks` form the explicit Jacobian of a small problem."""

    def __init__(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        config: RasterizationConfig,
        background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None,
        freeze: Freeze,
        decisions: Sequence[ViewPlan] | None = None,
    ):
        """`decisions`: what another linearisation decided, of which `freeze` says what is kept here."""
        self.gaussians = gaussians.detach()
        self.cameras = cameras
        self.config = config
        self.freeze: Freeze = freeze
        self._background = background_per_view(background, gaussians, cameras).detach()
        self._viewmats = cameras.viewmats.detach()
        if freeze not in ("order", "pairs"):
            raise ValueError(f'freeze must be "order" or "pairs", not {freeze!r}')
        if decisions is None or freeze == "order":
            decisions = plan_reference(self.gaussians, cameras, config, "pairs", lists=decisions)
        self._pairs = tuple(decisions)
        self._frozen = self._pairs if freeze == "pairs" else tuple(ViewPlan(plan.drawn) for plan in self._pairs)
        self.visible = visible_gaussians(self._pairs, gaussians.num_gaussians)
        self.rgb = self._rgb(self._viewmats, *self.gaussians.leaves())

    def render(self, gaussians: Gaussians) -> Rendering:
        """The renderer with the frozen decisions, differentiable."""
        return render_views(gaussians, self._viewmats, self.cameras, self.config, self._background, self._frozen)

    def at(self, gaussians: Gaussians, freeze: Freeze | None = None) -> ReferenceLinearization:
        """The linearisation at another point that keeps this one's lists ("order") or all its decisions ("pairs")."""
        if [leaf.shape for leaf in gaussians.leaves()] != [leaf.shape for leaf in self.gaussians.leaves()]:
            raise ValueError(f"the point must have the shape of {self.gaussians!r}, got {gaussians!r}")
        return ReferenceLinearization(
            gaussians, self.cameras, self.config, self._background, freeze or self.freeze, self._pairs
        )

    def to(self, dtype: torch.dtype) -> ReferenceLinearization:
        """This point in another precision, everything decided as here; its `.render` and `.at` keep all decisions."""
        point, cameras = self.gaussians.to(dtype=dtype), self.cameras.to(dtype=dtype)
        background = self._background.to(dtype)
        return ReferenceLinearization(point, cameras, self.config, background, "pairs", self._pairs)

    def jvp(self, v: Gaussians) -> Float[Tensor, "V H W 3"]:
        """J v by forward mode."""
        return torch.func.jvp(self._rgb_of_leaves, self.gaussians.leaves(), v.leaves())[1]

    def vjp(self, u: Float[Tensor, "V H W 3"]) -> Gaussians:
        """Jᵀ u by reverse mode."""
        return Gaussians(*self._vjp_at(self.gaussians.leaves(), u))

    def vjp_cameras(self, u: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V 6"]:
        """Gradient with respect to the twist ξ = (v, ω) in viewmat(ξ) = exp(ξ^)·viewmat, at 0."""

        def rgb(twists: Tensor) -> Tensor:
            return self._rgb(twist_exponential(twists) @ self._viewmats, *self.gaussians.leaves())

        return torch.func.vjp(rgb, self._viewmats.new_zeros(self.cameras.num_views, 6))[1](u)[0]

    def gauss_newton(self, v: Gaussians, weights: Weights) -> Gaussians:
        """JᵀWJ v as three products."""
        pushed = self.jvp(v)
        return self.vjp(weights * pushed if isinstance(weights, Tensor) else weights(pushed))

    def diagonal(self, weights: Weights) -> Gaussians:
        """The diagonal of JᵀWJ from the explicit Jacobian."""
        return self.gaussians.unflatten((self._jacobian**2 * _weights_column(weights)).sum(0))

    def blocks(self, weights: Weights) -> GaussianBlocks:
        """Diagonal blocks of JᵀWJ from the explicit Jacobian."""
        column = _weights_column(weights)
        slices = self.gaussians.group_slices()
        groups = {
            name: self._jacobian[:, slices[name]].reshape(len(column), *leaf.shape)
            for name, leaf in self.gaussians.items()
        }
        groups["opacities"] = groups["opacities"][:, :, None]
        geometry = torch.cat([groups[name] for name in ("means", "quats", "scales", "opacities")], dim=-1)  # [r, N, 11]
        sh = torch.cat([groups["sh0"], groups["shN"]], dim=2)  # [r, N, K, 3]
        return GaussianBlocks(
            geometry=torch.einsum("rni,rnj->nij", geometry * column[:, :, None], geometry),
            sh=torch.einsum("rnkc,rnlc->nckl", sh * column[:, :, None, None], sh),
        )

    def vjp_tangent(self, v: Gaussians, u: Float[Tensor, "V H W 3"], du: Float[Tensor, "V H W 3"]) -> Gaussians:
        """Jᵀ du + d/dε J(θ + εv)ᵀ u, forward mode over reverse mode."""
        leaves = self.gaussians.leaves()
        second_order = torch.func.jvp(lambda *leaves: self._vjp_at(leaves, u), leaves, v.leaves())[1]
        return self.vjp(du).combine(torch.add, Gaussians(*second_order))

    def _rgb(self, viewmats: Tensor, *leaves: Tensor) -> Tensor:
        gaussians = Gaussians(*leaves)
        return render_views(gaussians, viewmats, self.cameras, self.config, self._background, self._pairs).rgb

    def _rgb_of_leaves(self, *leaves: Tensor) -> Tensor:
        return self._rgb(self._viewmats, *leaves)

    def _vjp_at(self, leaves: tuple[Tensor, ...], u: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(self._rgb_of_leaves, *leaves)[1](u)

    @functools.cached_property
    def _jacobian(self) -> Float[Tensor, "VHW3 P"]:
        rows, columns = self.rgb.numel(), self.gaussians.num_parameters
        if rows * columns > DENSE_JACOBIAN_MAX:
            raise ValueError(f"the explicit {rows} x {columns} Jacobian is too large for the reference backend")

        def column(tangent: Tensor) -> Tensor:
            return self.jvp(self.gaussians.unflatten(tangent)).reshape(-1)

        directions = torch.eye(columns, dtype=self.rgb.dtype, device=self.rgb.device)
        return torch.func.vmap(column, out_dims=1, chunk_size=16)(directions)


def twist_exponential(twists: Float[Tensor, "V 6"]) -> Float[Tensor, "V 4 4"]:
    """exp(ξ^) in SE(3) for ξ = (v, ω): translation part first, then the rotation vector."""
    vx, vy, vz, wx, wy, wz = twists.unbind(-1)
    zero = torch.zeros_like(vx)
    rows = ((zero, -wz, wy, vx), (wz, zero, -wx, vy), (-wy, wx, zero, vz), (zero, zero, zero, zero))
    return torch.linalg.matrix_exp(torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2))


def _weights_column(weights: Weights) -> Float[Tensor, "VHW3 1"]:
    return (weights if isinstance(weights, Tensor) else weights.diagonal()).reshape(-1, 1)
