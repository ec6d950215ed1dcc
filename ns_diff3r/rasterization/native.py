# SPDX-License-Identifier: Apache-2.0
"""The native CPU backend: `protocol.Linearization` over the compiled `Plan` ("plan once, multiply many times")."""

from __future__ import annotations

import threading
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import extension
from ..splats import Cameras, Gaussians
from .config import RasterizationConfig
from .native_plans import addresses, background_per_view, new_plan, retire_plan
from .protocol import Freeze, GaussianBlocks, Rendering, Weights


class NativeLinearization:
    """The native renderer around one point; see `protocol.Linearization` for what the members mean.

    Order, tile lists and pairs live in the plan. Everything runs on `torch.get_num_threads()` threads with results that
    do not depend on their number.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        config: RasterizationConfig,
        background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None = None,
        freeze: Freeze = "order",
        check_finite: bool = True,
        products: bool = True,
        _origin: NativeLinearization | None = None,
    ):
        if freeze not in ("order", "pairs"):
            raise ValueError(f'freeze must be "order" or "pairs", not {freeze!r}')
        if check_finite:
            gaussians.check_finite()
        self.gaussians = gaussians.detach().contiguous()
        self.cameras = cameras
        self.config = config
        self.freeze: Freeze = freeze
        self._dtype = gaussians.dtype
        self.device = gaussians.device
        self._background = background_per_view(background, cameras)
        self._plan = self._new_plan()
        self._turn = threading.Lock()  # one product at a time: they share the plan's work memory
        self._threads = extension.num_threads()
        same = _origin is not None and _origin._dtype == self._dtype
        # holds the records that straight-through caps refer to
        self._origin = _origin if same and freeze == "pairs" else None
        if _origin is None:
            self._build_plan()
        elif not same:
            self._plan.decide_as(_origin._plan, addresses(self.gaussians), *self._scene_arguments())
        else:
            self._plan.rebase(_origin._plan, addresses(self.gaussians), freeze == "pairs", self._threads)
        self.rendering = self._render(products)

    def __del__(self) -> None:
        plan = self.__dict__.pop("_plan", None)
        if plan is not None:
            self._retire_plan(plan)

    # --- what a backend of other memory does its own way ---

    def _new_plan(self) -> Any:
        return new_plan(self._dtype)

    def _retire_plan(self, plan: Any) -> None:
        retire_plan(self._dtype, plan)

    def _build_plan(self) -> None:
        self._plan.build(
            addresses(self.gaussians),
            self.gaussians.num_gaussians,
            (self.gaussians.sh_degree + 1) ** 2,
            *self._scene_arguments(),
        )

    def _scene_arguments(self) -> tuple[Any, ...]:
        """Cameras, background, size, semantics and threads, as the compiled plan takes them."""
        return (
            self.cameras.viewmats.detach().double().numpy(),
            self.cameras.Ks.detach().double().numpy(),
            self._background.numpy(),
            self.cameras.width,
            self.cameras.height,
            asdict(self.config),
            self._threads,
        )

    def _render(self, linearize: bool) -> Rendering:
        rgb, alpha, depth = self._image(3), self._image(1), self._image(1)
        self._plan.render(rgb.data_ptr(), alpha.data_ptr(), depth.data_ptr(), linearize, self._threads)
        return Rendering(rgb, alpha, depth)

    def _image(self, channels: int) -> Tensor:
        shape = (self.cameras.num_views, self.cameras.height, self.cameras.width, channels)
        return torch.empty(shape, dtype=self._dtype, device=self.device)

    def _image_input(self, name: str, image: Tensor, channels: int = 3) -> Tensor:
        expected = (self.cameras.num_views, self.cameras.height, self.cameras.width, channels)
        if tuple(image.shape) != expected:
            raise ValueError(f"{name} must be {list(expected)}, got {list(image.shape)}")
        if image.dtype != self._dtype or image.device != self.device:
            where = "the CPU" if self.device.type == "cpu" else str(self.device)
            raise TypeError(f"{name} must be {self._dtype} on {where}, got {image.dtype} on {image.device}")
        return image.detach().contiguous()

    def _vector_input(self, v: Gaussians) -> Gaussians:
        same = v.num_gaussians == self.gaussians.num_gaussians and v.sh_degree == self.gaussians.sh_degree
        if not same or v.dtype != self._dtype or v.device != self.device:
            raise ValueError(f"the vector must have the shape of {self.gaussians!r}, got {v!r}")
        return v.detach().contiguous()

    def _vector(self) -> Gaussians:
        return self.gaussians.unflatten(self._empty(self.gaussians.num_parameters))

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self.device)

    # --- the point itself ---

    @property
    def rgb(self) -> Float[Tensor, "V H W 3"]:
        """R(θ), background included."""
        return self.rendering.rgb

    @property
    def visible(self) -> Bool[Tensor, " N"]:
        """Whether a Gaussian contributes to at least one pixel of a view."""
        return self._visible

    @cached_property
    def _visible(self) -> Bool[Tensor, " N"]:
        mask = torch.empty(self.gaussians.num_gaussians, dtype=torch.bool)
        self._plan.contributing(mask.data_ptr())
        return mask

    @property
    def statistics(self) -> dict[str, int]:
        """Counts: visible (view, Gaussian) records, tile intersections, block candidates, block entries, pairs."""
        names = {
            "records": "num_records",
            "intersections": "num_intersections",
            "candidates": "num_candidates",
            "active": "num_active",
            "pairs": "num_pairs",
        }
        return {name: getattr(self._plan, attribute) for name, attribute in names.items()}

    def at(self, gaussians: Gaussians, freeze: Freeze | None = None) -> NativeLinearization:
        """The linearisation at another point that keeps this one's lists ("order") or all its decisions ("pairs")."""
        return self._at(gaussians, freeze or self.freeze, products=True)

    def to(self, dtype: torch.dtype) -> NativeLinearization:
        """This point in another precision, everything decided as here, where rounding alone would decide otherwise.

        Its `.render` and `.at` keep all decisions.

        Raises:
            TypeError: a linearisation on another device than the CPU.
        """
        if self.device.type != "cpu":
            raise TypeError(f"decisions are taken to another precision on the CPU alone, not on {self.device}")
        if dtype == self._dtype:
            return self.at(self.gaussians, "pairs")
        point, cameras = self.gaussians.to(dtype=dtype), self.cameras.to(dtype=dtype)
        return type(self)(point, cameras, self.config, self._background, "pairs", check_finite=False, _origin=self)

    def _at(self, gaussians: Gaussians, freeze: Freeze, products: bool) -> NativeLinearization:
        return type(self)(
            self._vector_input(gaussians),
            self.cameras,
            self.config,
            self._background,
            freeze,
            check_finite=False,
            products=products,
            _origin=self,
        )

    def render(self, gaussians: Gaussians) -> Rendering:
        """R at another point with this one's decisions; differentiable with respect to `gaussians`."""
        from .render import differentiable_rendering

        products = torch.is_grad_enabled() and gaussians.requires_grad
        return differentiable_rendering(
            gaussians, self.cameras, self._background, lambda point: self._at(point, self.freeze, products)
        )

    # --- products ---

    def jvp(self, v: Gaussians) -> Float[Tensor, "V H W 3"]:
        """J v."""
        v, out = self._vector_input(v), self._image(3)
        with self._turn:
            self._plan.jvp(addresses(v), out.data_ptr(), self._threads)
        return out

    def vjp(self, u: Float[Tensor, "V H W 3"]) -> Gaussians:
        """Jᵀ u."""
        return self.rendering_vjp(u, None, None, cameras=False)[0]

    def vjp_cameras(self, u: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V 6"]:
        """Gradient with respect to the twist ξ = (v, ω) in viewmat(ξ) = exp(ξ^)·viewmat, at 0."""
        return self.rendering_vjp(u, None, None, cameras=True)[2].to(self._dtype)

    def rendering_vjp(
        self,
        u_rgb: Float[Tensor, "V H W 3"] | None,
        u_alpha: Float[Tensor, "V H W 1"] | None,
        u_depth: Float[Tensor, "V H W 1"] | None,
        cameras: bool,
    ) -> tuple[Gaussians, Float[Tensor, "V 4 4"], Float[Tensor, "V 6"]]:
        """Cotangents of the Gaussians, of the viewmats (entry by entry, float64) and of the twists (float64).

        The last two are zero unless `cameras`.
        """
        held = [None if u_rgb is None else self._image_input("the cotangent of rgb", u_rgb)]
        u_sum = None
        if u_depth is not None:
            # depth = Σ w z / max(Σ w, 1e-10)
            u_depth = self._image_input("the cotangent of depth", u_depth, 1)
            alpha = self.rendering.alpha
            u_sum = u_depth / alpha.clamp_min(1e-10)
            through_alpha = torch.where(alpha > 1e-10, -u_sum * self.rendering.depth, torch.zeros_like(u_sum))
            u_alpha = through_alpha if u_alpha is None else u_alpha + through_alpha
        held += [None if u_alpha is None else self._image_input("the cotangent of alpha", u_alpha, 1), u_sum]
        out = self._vector()
        sums = torch.zeros(self.cameras.num_views, 18, dtype=torch.float64, device=self.device)
        with self._turn:
            self._plan.vjp(
                *(0 if image is None else image.data_ptr() for image in held),
                addresses(out),
                sums.data_ptr() if cameras else 0,
                self._threads,
            )
        return out, *self._camera_cotangents(sums)

    def _camera_cotangents(self, sums: Float[Tensor, "V 18"]) -> tuple[Float[Tensor, "V 4 4"], Float[Tensor, "V 6"]]:
        viewmats = self.cameras.viewmats.detach().double()
        rotation, translation = viewmats[:, :3, :3], viewmats[:, :3, 3]
        v_rotation, v_translation = sums[:, :9].reshape(-1, 3, 3), sums[:, 9:12]
        v_center, v_omega = sums[:, 12:15], sums[:, 15:18]
        # centre = −Rᵀt
        v_translation = v_translation - (rotation @ v_center[:, :, None])[:, :, 0]
        v_viewmats = torch.zeros_like(viewmats)
        v_viewmats[:, :3, :3] = v_rotation - translation[:, :, None] * v_center[:, None, :]
        v_viewmats[:, :3, 3] = v_translation
        return v_viewmats, torch.cat([v_translation, v_omega], dim=1)

    def gauss_newton(self, v: Gaussians, weights: Weights) -> Gaussians:
        """JᵀWJ v, fused for a tensor of weights."""
        if not isinstance(weights, Tensor):
            return self.vjp(weights(self.jvp(v)))
        v, weights, out = self._vector_input(v), self._image_input("weights", weights), self._vector()
        with self._turn:
            self._plan.gauss_newton(addresses(v), weights.data_ptr(), addresses(out), self._threads)
        return out

    def diagonal(self, weights: Weights) -> Gaussians:
        """The diagonal of JᵀWJ; of an operator W only its diagonal is used."""
        return self._blocks(weights, blocks=False)[0]

    def blocks(self, weights: Weights) -> GaussianBlocks:
        """Per-Gaussian diagonal blocks of JᵀWJ; of an operator W only its diagonal is used."""
        return GaussianBlocks(*self._blocks(weights, blocks=True)[1:])

    def _blocks(self, weights: Weights, blocks: bool) -> tuple[Gaussians, Tensor, Tensor]:
        diagonal_weights = weights if isinstance(weights, Tensor) else weights.diagonal()
        diagonal_weights = self._image_input("weights", diagonal_weights)
        n, k = self.gaussians.num_gaussians, (self.gaussians.sh_degree + 1) ** 2
        geometry = self._empty(n if blocks else 0, 11, 11)
        sh = self._empty(n if blocks else 0, 3, k, k)
        diagonal = self._vector()
        with self._turn:
            self._plan.blocks(
                diagonal_weights.data_ptr(),
                addresses(diagonal),
                geometry.data_ptr() if blocks else 0,
                sh.data_ptr() if blocks else 0,
                self._threads,
            )
        return diagonal, geometry, sh

    def vjp_tangent(self, v: Gaussians, u: Float[Tensor, "V H W 3"], du: Float[Tensor, "V H W 3"]) -> Gaussians:
        """Jᵀ du + d/dε J(θ + εv)ᵀ u, by dual numbers through the vjp."""
        v, out = self._vector_input(v), self._vector()
        u, du = self._image_input("u", u), self._image_input("du", du)
        with self._turn:
            self._plan.vjp_tangent(addresses(v), u.data_ptr(), du.data_ptr(), addresses(out), self._threads)
        return out

    def reproject(self) -> None:
        """Project from the raw parameters again (the benchmark's share that the plan otherwise keeps)."""
        with self._turn:
            self._plan.reproject(self._threads)

    def rerender(self) -> Rendering:
        """Render the point again, contributing pairs recorded as for products (for the benchmark)."""
        with self._turn:
            return self._render(linearize=True)
