# SPDX-License-Identifier: Apache-2.0
"""SSIM with every derivative product the solver needs: J v, Jᵀu, the diagonal of Jᵀdiag(c)J, exact Hessian products.

Per channel, with an 11×11 Gaussian window (σ 1.5), zero padding, C1 = 1e-4, C2 = 9e-4 (images in [0, 1]). With x the
rendering, y the photograph and G the window's filter, SSIM S_p of the window around p depends on x only through
μ = Gx, G(x²) and G(xy). With a, b, c its derivatives with respect to these three (images),

    J v = a ⊙ Gv + b ⊙ G(2x⊙v) + c ⊙ G(y⊙v)            Jᵀu = G(a⊙u) + 2x ⊙ G(b⊙u) + y ⊙ G(c⊙u)

since G is its own adjoint. On CPU each is one fused pass of csrc/cpu/image_ops, on a CUDA device one kernel
(`cuda_ops`), elsewhere torch (`ssim_torch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cuda_launch import usable
from . import cuda_ops, ssim_torch
from .native import address, is_native, native

Images = Float[Tensor, "V H W C"]


def window_filter(images: Images, taps: list[float] | None = None) -> Images:
    """G·images with zero padding; `taps` (11 numbers, symmetric) replace the SSIM window's along both axes."""
    if usable(images):
        return cuda_ops.window_filter(images.contiguous(), taps)
    if not is_native(images):
        return ssim_torch.window_filter(images, taps or ssim_torch.window_taps())
    images = images.contiguous()
    out = torch.empty_like(images)
    call = native("image_filter", images.dtype)
    call(torch.get_num_threads(), tuple(images.shape), taps or [], address(images, images), address(out, out))
    return out


class SsimTarget:
    """A photograph with the means and variances of its windows, computed once for many renderings."""

    def __init__(self, image: Images) -> None:
        self.image = image.detach().contiguous()
        if is_native(image):
            self.mean, self.variance = torch.empty_like(self.image), torch.empty_like(self.image)
            call = native("ssim_target", image.dtype)
            addresses = (address(tensor, self.image) for tensor in (self.image, self.mean, self.variance))
            call(torch.get_num_threads(), tuple(image.shape), *addresses)
        elif usable(self.image):
            self.mean, self.variance = cuda_ops.ssim_target(self.image)
        else:
            self.mean = window_filter(self.image)
            self.variance = window_filter(self.image.square()) - self.mean.square()

    def select(self, index: Int[Tensor, " S"]) -> SsimTarget:
        """Some of the images."""
        chosen = object.__new__(SsimTarget)
        chosen.image, chosen.mean, chosen.variance = (tensor[index] for tensor in self.statistics)
        return chosen

    @property
    def statistics(self) -> tuple[Images, Images, Images]:
        """(image, window means, window variances)."""
        return self.image, self.mean, self.variance


@dataclass(frozen=True, eq=False)
class Ssim:
    """SSIM of a rendering against a target, with its first derivatives (the a, b, c of the module's text)."""

    rendered: Images
    target: SsimTarget
    values: Images
    total: float
    """Sum of the values, in float64."""
    partials: tuple[Images, Images, Images]

    @staticmethod
    def evaluate(rendered: Images, target: SsimTarget) -> Ssim:
        """SSIM of every window of `rendered`; ValueError or TypeError if it does not match the target."""
        rendered = rendered.detach().contiguous()
        if rendered.shape != target.image.shape:
            raise ValueError(
                f"rendering {list(rendered.shape)} and photograph {list(target.image.shape)} differ in size"
            )
        if is_native(rendered):
            values, a, b, c = (torch.empty_like(rendered) for _ in range(4))
            call = native("ssim_value", rendered.dtype)
            addresses = (address(tensor, rendered) for tensor in (rendered, *target.statistics, values, a, b, c))
            total = call(torch.get_num_threads(), tuple(rendered.shape), *addresses)
        elif usable(rendered):
            values, total, (a, b, c) = cuda_ops.ssim_value(rendered, target.statistics)
        else:
            values, a, b, c = ssim_torch.value_and_partials(rendered, *target.statistics)
            total = float(values.double().sum())
        return Ssim(rendered, target, values, total, (a, b, c))

    def jvp(self, v: Images) -> Images:
        """J v: the change of every window's SSIM when the rendering moves along v."""
        v = v.contiguous()
        if is_native(v):
            out = torch.empty_like(v)
            call = native("ssim_jvp", v.dtype)
            tensors = (self.rendered, self.target.image, *self.partials, v, out)
            call(torch.get_num_threads(), tuple(v.shape), *(address(tensor, v) for tensor in tensors))
            return out
        if usable(v):
            return cuda_ops.ssim_jvp(self.rendered, self.target.image, self.partials, v)
        a, b, c = self.partials
        return (
            a * window_filter(v) + b * window_filter(2 * self.rendered * v) + c * window_filter(self.target.image * v)
        )

    def vjp(self, u: Images | None = None, scale: float = 1.0, add_to: Images | None = None) -> Images:
        """scale·Jᵀu, with u = 1 for None. `add_to` is added, in place, and returned."""
        return self._vjp_with(self.partials, u, scale, add_to)

    def _vjp_with(
        self, partials: tuple[Images, Images, Images], u: Images | None, scale: float, add_to: Images | None = None
    ) -> Images:
        """`vjp` with other images in the place of a, b, c."""
        x, y = self.rendered, self.target.image
        if is_native(x):
            out = torch.empty_like(x) if add_to is None else add_to
            u = u if u is None else u.contiguous()
            inputs = (address(tensor, x) for tensor in (x, y, *partials, u))
            call = native("ssim_vjp", x.dtype)
            call(torch.get_num_threads(), tuple(x.shape), *inputs, scale, add_to is not None, address(out, x))
            return out
        if usable(x):
            return cuda_ops.ssim_vjp(x, y, partials, u if u is None else u.contiguous(), scale, add_to)
        a, b, c = partials if u is None else (partial * u for partial in partials)
        out = scale * (window_filter(a) + 2 * x * window_filter(b) + y * window_filter(c))
        return out if add_to is None else add_to.add_(out)

    def hessian_product(self, v: Images) -> Images:
        """(Σ_p ∇²S_p) v, exact: the derivative of Jᵀ1 along v, which is Jᵀ1 with (ȧ, ḃ, ċ) plus 2v ⊙ Gb."""
        x, v = self.rendered, v.contiguous()
        if is_native(x):
            tangents = (torch.empty_like(x), torch.empty_like(x), torch.empty_like(x))
            inputs = (address(tensor, x) for tensor in (x, *self.target.statistics, v, *tangents))
            native("ssim_partials_jvp", x.dtype)(torch.get_num_threads(), tuple(x.shape), *inputs)
        elif usable(x):
            tangents = cuda_ops.ssim_partials_jvp(x, self.target.statistics, v)
        else:
            tangents = ssim_torch.partials_jvp(x, *self.target.statistics, v)
        return self._vjp_with(tangents, None, 1.0, add_to=2 * v * self._filtered_square)

    @cached_property
    def _filtered_square(self) -> Images:
        return window_filter(self.partials[1])

    def gauss_newton_diagonal(self, weights: Images) -> Images:
        """The diagonal of Jᵀ diag(weights) J, exact.

        ∂S_p/∂x_i = g_pi (a_p + 2 x_i b_p + y_i c_p) with g the window; the square sorts into six images that are
        filtered with the squared taps.
        """
        x, y = self.rendered, self.target.image
        a, b, c = self.partials
        taps = [tap * tap for tap in ssim_torch.window_taps()]

        def spread(image: Tensor) -> Tensor:
            return window_filter(weights * image, taps)

        constant = spread(a * a) + 4 * x * spread(a * b) + 2 * y * spread(a * c)
        return constant + 4 * x * x * spread(b * b) + 4 * x * y * spread(b * c) + y * y * spread(c * c)

    def center_derivative(self) -> Images:
        """∂S_p/∂x_p: the derivative of every window's SSIM with respect to its own centre pixel."""
        a, b, c = self.partials
        tap = ssim_torch.window_taps()[ssim_torch.WINDOW_RADIUS]
        return tap * tap * (a + 2 * self.rendered * b + self.target.image * c)
