# SPDX-License-Identifier: Apache-2.0
"""`render` and `linearize`: the entry points that choose a backend and check what enters it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import extension
from ..splats import Cameras, Gaussians
from .config import RasterizationConfig, resolve_preset
from .native import NativeLinearization
from .protocol import Freeze, Linearization, Rendering

Backend = Literal["auto", "native", "cuda", "gsplat", "reference"]

BACKENDS = ("auto", "native", "cuda", "gsplat", "reference")


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    preset: str | RasterizationConfig = "gsplat-1.4.0",
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None = None,
    antialiased: bool = False,
    backend: Backend = "auto",
) -> Rendering:
    """Draw Gaussians in all views; differentiable in every leaf of `gaussians`, `cameras.viewmats` and `background`.

    Args:
        gaussians: raw parameters, float32 or float64.
        cameras: V views of one size; their dtype may differ from the Gaussians'.
        preset: renderer semantics, a name of `PRESETS` or a config.
        background: colour behind the Gaussians, for all views or one each; black if None.
        antialiased: opacity compensation for the blur (`RasterizationConfig.antialiased`).
        backend: "native" (compiled, the default: on the CPU or the CUDA device that holds the tensors), "cuda" (the
            same, refused elsewhere), "gsplat" (on CUDA, for its own preset only), or "reference" (dense torch: small
            scenes, twice differentiable).

    Returns:
        rgb, alpha and expected depth of every view.

    Raises:
        ValueError: unknown preset or backend, wrong shapes, non-finite parameters, mixed devices.
        TypeError: dtypes other than float32 and float64.
    """
    config = resolve_preset(preset, antialiased)
    chosen = _resolve_backend(gaussians, cameras, backend)
    if chosen == "reference":
        from .reference import render_reference

        return render_reference(gaussians.check_finite(), cameras, config, background)
    gaussians.check_finite()
    if chosen == "gsplat":
        from . import gsplat

        gsplat.check_preset(config)
        rasterization = gsplat.load()
        if rasterization is not None:
            return gsplat.render_gsplat(gaussians, cameras, config, background, rasterization)
    inputs = (*gaussians.leaves(), cameras.viewmats, background)
    # Asked here: inside a Function's forward gradients are always off.
    products = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    return differentiable_rendering(
        gaussians,
        cameras,
        background,
        lambda point: _native(point)(point, cameras, config, background, check_finite=False, products=products),
    )


def linearize(
    gaussians: Gaussians,
    cameras: Cameras,
    preset: str | RasterizationConfig = "gsplat-1.4.0",
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None = None,
    antialiased: bool = False,
    backend: Backend = "auto",
    freeze: Freeze = "order",
    check_finite: bool = True,
) -> Linearization:
    """The renderer around one point, for products with its Jacobian; see `protocol.Linearization`.

    Args:
        gaussians, cameras, preset, background, antialiased, backend: as for `render`; nothing is differentiated, and
            "gsplat", which has no forward mode, is refused.
        freeze: what `.render` and `.at` of the result keep: depth order and lists ("order"), or contributing pairs,
            caps and clamps too ("pairs").
        check_finite: False skips the test for NaN and infinities (an inner loop that tests its loss instead).

    Raises:
        ValueError, TypeError: as `render`; unknown `freeze`.
    """
    config = resolve_preset(preset, antialiased)
    if freeze not in ("order", "pairs"):
        raise ValueError(f'freeze must be "order" or "pairs", not {freeze!r}')
    chosen = _resolve_backend(gaussians, cameras, backend)
    if chosen == "gsplat":
        raise ValueError("gsplat has no forward mode and no frozen decisions: linearise with the native backend")
    if chosen == "reference":
        from .reference_linearization import linearize_reference

        if check_finite:
            gaussians.check_finite()
        return linearize_reference(gaussians, cameras, config, background, freeze)
    return _native(gaussians)(gaussians, cameras, config, background, freeze, check_finite=check_finite)


def _resolve_backend(gaussians: Gaussians, cameras: Cameras, backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; the backends are {', '.join(map(repr, BACKENDS))}")
    if gaussians.device != cameras.device:
        raise ValueError(f"Gaussians are on {gaussians.device}, cameras on {cameras.device}; they must share a device")
    if backend == "reference":
        return backend
    kind = gaussians.device.type
    if backend in ("cuda", "gsplat") and kind != "cuda":
        raise ValueError(f"the {backend} backend draws on CUDA devices; the Gaussians are on {gaussians.device}")
    if kind == "cuda" and not extension.has_cuda() and backend != "gsplat":
        extension.cuda()  # an ImportError that says what to do
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"the native backend draws on CPU and CUDA devices; the Gaussians are on {gaussians.device}")
    return "gsplat" if backend == "gsplat" else "native"


def _native(gaussians: Gaussians) -> type[NativeLinearization]:
    """The compiled backend of the device that holds the Gaussians."""
    if gaussians.device.type == "cpu":
        return NativeLinearization
    from .cuda import CudaLinearization

    _say_once(extension.describe())
    return CudaLinearization


@lru_cache(maxsize=1)
def _say_once(text: str) -> None:
    logging.getLogger("ns_diff3r").info("renderer: %s", text)


def differentiable_rendering(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None,
    linearize_at: Callable[[Gaussians], NativeLinearization],
) -> Rendering:
    """One autograd node around a native rendering whose linearisation `linearize_at` makes."""
    colors = background if isinstance(background, Tensor) else None
    return Rendering(*_NativeRendering.apply(linearize_at, cameras.viewmats, colors, *gaussians.leaves()))


class _NativeRendering(torch.autograd.Function):
    """The vjp is the plan's own: it holds the order, lists and pairs of the forward pass."""

    @staticmethod
    def forward(ctx: Any, linearize_at: Any, viewmats: Tensor, background: Tensor | None, *leaves: Tensor) -> Any:
        linearization = linearize_at(Gaussians(*leaves))
        ctx.set_materialize_grads(False)  # an image without a cotangent costs nothing
        ctx.linearization = linearization
        ctx.background_shape = None if background is None else background.shape
        ctx.background_device = None if background is None else background.device
        ctx.save_for_backward(*leaves)  # so that autograd notices a leaf that was changed in place
        # Other tensors than those that ctx holds: an output that knows its node, in a node that knows its output, is a
        # cycle through C++ that nothing ever frees. And the caller may change them in place.
        rendering = linearization.rendering
        return rendering.rgb.detach(), rendering.alpha.clone(), rendering.depth.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors
        linearization: NativeLinearization = ctx.linearization
        u_rgb, u_alpha, u_depth = cotangents
        _, needs_viewmats, needs_background, *needs_leaves = ctx.needs_input_grad
        v_gaussians, v_viewmats, _ = linearization.rendering_vjp(u_rgb, u_alpha, u_depth, cameras=needs_viewmats)
        v_background = None
        if needs_background and u_rgb is not None:
            v_background = (u_rgb * (1 - linearization.rendering.alpha)).sum((1, 2))
            v_background = v_background.sum(0) if len(ctx.background_shape) == 1 else v_background
            v_background = v_background.to(ctx.background_device)
        return (
            None,
            v_viewmats.to(linearization.cameras.dtype) if needs_viewmats else None,
            v_background,
            *(v if needed else None for v, needed in zip(v_gaussians.leaves(), needs_leaves, strict=True)),
        )
