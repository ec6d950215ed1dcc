# SPDX-License-Identifier: Apache-2.0
"""The solver's passes as CUDA kernels: fused inner steps, pixel losses, SSIM and its products.

The same functions as the compiled CPU loops (`vector_ops`, `penalties`, `ssim`). On CPU tensors the kernels are
executed on the host, thread by thread: for tests. Sums are made in two stages of fixed order in float64; where a
function returns numbers, it waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..cuda_launch import current_stream, module_for, suffix_for
from .native import address

Images = Float[Tensor, "V H W C"]


def _call(name: str, like: Tensor, *arguments: object) -> None:
    function = getattr(module_for(like.device), name + suffix_for(like.dtype, like.device))
    with current_stream(like.device) as stream:
        function(*arguments, stream)


def _sums(like: Tensor, *shape: int) -> Float[Tensor, " S"]:
    return torch.empty(shape, dtype=torch.float64, device=like.device)


def inner_step(
    kind: str,
    ranges: Sequence[tuple[int, int, float, bool]],
    vectors: Sequence[Float[Tensor, " P"] | None],
    rates: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 1),
) -> Float[Tensor, "2 R"]:
    """One fused pass over the parameters: prior, statistics, and the step of an optimiser.

    Args:
        kind: "prior_gradient", "sgd" or "adam"; what each does is said in `vector_ops`.
        ranges: (begin, end, learning rate, frozen) of the attribute groups.
        vectors: θ, θ⁰, Λ, gradient, first and second moment, next θ; None where `kind` has no use for one.
        rates: β₁, β₂, ε and the number of the step, from 1.

    Returns:
        ½ΣΛ(θ−θ⁰)² and Σg² of every range, float64, on the device.
    """
    theta = vectors[0]
    assert theta is not None
    rows = [tuple(r) for r in ranges]
    statistics = _sums(theta, 2, len(rows))
    partial = _sums(theta, module_for(theta.device).step_partials(rows))
    addresses = [address(vector, theta) for vector in vectors]
    _call("inner_step", theta, kind, rows, addresses, rates, partial.data_ptr(), statistics.data_ptr())
    return statistics


def pixel_loss(
    penalty: int, rendered: Images, target: Images, delta: float, scale: float, signs: Images | None
) -> tuple[float, Images]:
    """(Σ ρ(e), scale·ρ'(e)) as `penalties.total_and_gradient`; `penalty` is its number there."""
    gradient = torch.empty_like(rendered)
    partial = _sums(rendered, module_for(rendered.device).pixel_partials(rendered.numel()))
    total = _sums(rendered, 1)
    addresses = (address(tensor, rendered) for tensor in (rendered, target, signs, gradient))
    _call(
        "pixel_loss",
        rendered,
        rendered.numel(),
        penalty,
        delta,
        scale,
        *addresses,
        partial.data_ptr(),
        total.data_ptr(),
    )
    return float(total), gradient


def window_filter(images: Images, taps: list[float] | None = None) -> Images:
    """G·images with zero padding, by the SSIM window or the given 11 taps along both axes."""
    out = torch.empty_like(images)
    _call("image_filter", images, tuple(images.shape), taps or [], address(images, images), address(out, images))
    return out


def ssim_target(image: Images) -> tuple[Images, Images]:
    """Means and variances of the windows of a photograph."""
    mean, variance = torch.empty_like(image), torch.empty_like(image)
    _call("ssim_target", image, tuple(image.shape), *(address(x, image) for x in (image, mean, variance)))
    return mean, variance


Three = tuple[Images, Images, Images]


def ssim_value(rendered: Images, target: Three) -> tuple[Images, float, Three]:
    """SSIM of every window against (image, means, variances), its sum, and the three partial derivatives."""
    values, a, b, c = (torch.empty_like(rendered) for _ in range(4))
    shape = tuple(rendered.shape)
    partial, total = _sums(rendered, module_for(rendered.device).image_partials(shape)), _sums(rendered, 1)
    addresses = (address(tensor, rendered) for tensor in (rendered, *target, values, a, b, c))
    _call("ssim_value", rendered, shape, *addresses, partial.data_ptr(), total.data_ptr())
    return values, float(total), (a, b, c)


def ssim_jvp(rendered: Images, photograph: Images, partials: Sequence[Images], v: Images) -> Images:
    """J v of the windows' SSIM."""
    out = torch.empty_like(v)
    _call("ssim_jvp", v, tuple(v.shape), *(address(x, v) for x in (rendered, photograph, *partials, v, out)))
    return out


def ssim_vjp(
    rendered: Images,
    photograph: Images,
    partials: Sequence[Images],
    u: Images | None,
    scale: float,
    add_to: Images | None,
) -> Images:
    """scale·Jᵀu, u = 1 for None, added in place to `add_to` if given."""
    out = torch.empty_like(rendered) if add_to is None else add_to
    inputs = (address(x, rendered) for x in (rendered, photograph, *partials, u))
    shape = tuple(rendered.shape)
    _call("ssim_vjp", rendered, shape, *inputs, scale, add_to is not None, address(out, rendered))
    return out


def ssim_partials_jvp(rendered: Images, target: Three, v: Images) -> Three:
    """Derivatives of the three partial derivatives along v."""
    tangents = (torch.empty_like(rendered), torch.empty_like(rendered), torch.empty_like(rendered))
    addresses = (address(x, rendered) for x in (rendered, *target, v, *tangents))
    _call("ssim_partials_jvp", rendered, tuple(rendered.shape), *addresses)
    return tangents
