# SPDX-License-Identifier: Apache-2.0
"""The photometric part of the inner loss, linearised: value, gradient, Gauss-Newton curvature, exact Hessian products.

    L(R) = mean over views, pixels and channels of  (1 − w) ρ(e) + w (1 − SSIM),      e = R − I

The kinks of an L1 penalty are frozen where the loss is linearised: `value_at`, `gradient_at` and `at` evaluate at other
renderings with the signs of this one, so that finite differences of them mean something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..dataclass_state import DefaultsForMissingFields
from . import penalties, ssim_torch
from .image_operators import SsimCurvature
from .penalties import PenaltyKind
from .ssim import Ssim, SsimTarget

Images = Float[Tensor, "V H W 3"]


@dataclass(frozen=True)
class ImageLoss(DefaultsForMissingFields):
    """The photometric loss (1 − ssim_weight)·ρ(e) + ssim_weight·(1 − SSIM), averaged over all pixels and channels."""

    kind: PenaltyKind = "l1"
    """Penalty ρ of a pixel's error e: "l1" |e|, "mse" e², "huber" e²/2 up to huber_delta, linear beyond, "charbonnier"
    |e| with its kink rounded off over charbonnier_epsilon."""
    ssim_weight: float = 0.2
    """w in [0, 1]: share of 1 − SSIM in the loss; 0 leaves the pixel penalty alone."""
    huber_delta: float = 0.1
    """Error at which "huber" turns from quadratic to linear."""
    charbonnier_epsilon: float = 1e-2
    """Error up to which "charbonnier" is quadratic rather than linear."""
    l1_epsilon: float = 1e-2
    """Smallest |e| in the curvature 1/(2|e|) of "l1": it bounds the curvature where the error vanishes."""
    ssim_curvature: Literal["exact", "center"] = "exact"
    """Curvature of the SSIM part: "exact" through its 11x11 windows, or "center", the derivative of each window with
    respect to its own centre pixel only (a diagonal, cheaper, and much smaller than the true curvature)."""
    ssim_epsilon: float = 1e-4
    """Smallest 1 − SSIM by which the SSIM curvature divides."""

    def __post_init__(self) -> None:
        if self.kind not in penalties.KINDS:
            raise ValueError(f"ImageLoss.kind must be one of {', '.join(penalties.KINDS)}, not {self.kind!r}")
        if self.ssim_curvature not in ("exact", "center"):
            raise ValueError(f'ImageLoss.ssim_curvature must be "exact" or "center", not {self.ssim_curvature!r}')
        if not 0.0 <= self.ssim_weight <= 1.0:
            raise ValueError(f"ImageLoss.ssim_weight must lie in [0, 1], not {self.ssim_weight}")
        for name in ("huber_delta", "charbonnier_epsilon", "l1_epsilon", "ssim_epsilon"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"ImageLoss.{name} must be positive, not {getattr(self, name)}")

    @property
    def delta(self) -> float:
        """The number that the penalty has: Huber's or Charbonnier's."""
        return self.charbonnier_epsilon if self.kind == "charbonnier" else self.huber_delta

    def check_curvature(self) -> None:
        """Raise ValueError if Gauss-Newton steps cannot weight this loss."""
        if self.kind not in penalties.WITH_CURVATURE:
            raise ValueError(
                f'optimizers "lm" and "gauss_newton" need a curvature, which loss.kind {self.kind!r} has not: choose '
                f'one of {", ".join(penalties.WITH_CURVATURE)}, or optimizer "adam"'
            )

    def against(self, target: Images) -> ImageObjective:
        """The loss as a function of the rendering alone; work on the photographs is done once here."""
        return ImageObjective(self, target)

    def linearize(self, rendered: Images, target: Images) -> LossLinearization:
        """The loss around `rendered`; see `LossLinearization`."""
        return self.against(target).linearize(rendered)


def differentiable_loss(objective: ImageObjective, rendered: Images) -> Float[Tensor, ""]:
    """The loss of `rendered` as a torch scalar that autograd differentiates twice: the oracle of `LossLinearization`.

    The signs of L1 and the branches of Huber are those of the values, so that derivatives are the piecewise ones.
    """
    loss, target = objective.loss, objective.target
    error = rendered - target
    total = (1.0 - loss.ssim_weight) * penalties.differentiable(loss.kind, error, loss.delta).mean()
    if objective.ssim_target is not None:
        values = ssim_torch.value_and_partials(rendered, *objective.ssim_target.statistics)[0]
        total = total + loss.ssim_weight * (1.0 - values.mean())
    return total


class ImageObjective:
    """An `ImageLoss` against fixed photographs [V, H, W, 3]."""

    def __init__(self, loss: ImageLoss, target: Images) -> None:
        self.loss = loss
        self.target = target.detach().contiguous()
        self.ssim_target = SsimTarget(self.target) if loss.ssim_weight > 0.0 else None

    def select(self, views: Sequence[int]) -> ImageObjective:
        """The loss against some of the photographs, averaged over these."""
        index = torch.tensor(views, device=self.target.device)
        chosen = object.__new__(ImageObjective)
        chosen.loss, chosen.target = self.loss, self.target[index]
        chosen.ssim_target = None if self.ssim_target is None else self.ssim_target.select(index)
        return chosen

    @property
    def num_residuals(self) -> int:
        """n = views × pixels × 3, by which the loss is averaged."""
        return self.target.numel()

    def value(self, penalties_sum: float, ssim_sum: float) -> float:
        """The loss from Σ ρ(e) and the sum of SSIM over all pixels and channels (ignored without an SSIM part)."""
        weight, n = self.loss.ssim_weight, self.num_residuals
        value = (1.0 - weight) * penalties_sum / n
        return value if self.ssim_target is None else value + weight * (1.0 - ssim_sum / n)

    def linearize(self, rendered: Images) -> LossLinearization:
        """The loss around `rendered`, its L1 signs frozen there.

        Raises:
            ValueError: the size differs from the photographs'.
            TypeError: the dtype differs from the photographs'.
        """
        return LossLinearization(self, rendered)


@dataclass(eq=False)
class LossLinearization:
    """The photometric loss around one rendering."""

    objective: ImageObjective
    rendered: Images
    frozen_signs: Images | None = None
    """Signs of an L1 penalty taken elsewhere; None: those of this rendering's errors."""

    def __post_init__(self) -> None:
        target = self.objective.target
        if self.rendered.shape != target.shape:
            raise ValueError(f"rendering {list(self.rendered.shape)} and photographs {list(target.shape)} differ")
        if self.rendered.dtype != target.dtype:
            raise TypeError(f"rendering is {self.rendered.dtype}, the photographs are {target.dtype}")
        self.rendered = self.rendered.detach().contiguous()

    @property
    def value(self) -> float:
        """The loss, averaged, in float64."""
        return self._value_and_gradient[0]

    @property
    def gradient(self) -> Images:
        """∂loss/∂rendering, with the 1/n of the average."""
        return self._value_and_gradient[1]

    @cached_property
    def _value_and_gradient(self) -> tuple[float, Images]:
        loss, n = self.objective.loss, self.objective.num_residuals
        weight = loss.ssim_weight
        total, gradient = penalties.total_and_gradient(
            loss.kind,
            self.rendered,
            self.objective.target,
            delta=loss.delta,
            scale=(1.0 - weight) / n,
            signs=self.frozen_signs,
        )
        if self.objective.ssim_target is None:
            return self.objective.value(total, 0.0), gradient
        self._ssim.vjp(scale=-weight / n, add_to=gradient)
        return self.objective.value(total, self._ssim.total), gradient

    def at(self, rendered: Images) -> LossLinearization:
        """The loss around another rendering, with the L1 signs of this one."""
        return LossLinearization(self.objective, rendered, self._signs)

    def value_at(self, rendered: Images) -> float:
        """The loss of another rendering, with the L1 signs of this one."""
        return self.at(rendered).value

    def gradient_at(self, rendered: Images) -> Images:
        """The gradient at another rendering, with the L1 signs of this one."""
        return self.at(rendered).gradient

    @cached_property
    def curvature(self) -> Tensor | SsimCurvature:
        """W ⪰ 0, the Gauss-Newton curvature of the loss WITHOUT the 1/n of the average.

        A tensor [V, H, W, 3] where W is diagonal; with exact SSIM windows an operator. The SSIM part is that of the
        square-root residual sqrt(w (1 − S)): w/2 · J_Sᵀ diag(1/(1 − S)) J_S.
        """
        loss = self.objective.loss
        pixel = penalties.curvature(loss.kind, self._error, loss.delta, loss.l1_epsilon)
        pixel.mul_(1.0 - loss.ssim_weight)
        if self.objective.ssim_target is None:
            return pixel
        window = 0.5 * loss.ssim_weight / (1.0 - self._ssim.values).clamp_min_(loss.ssim_epsilon)
        if loss.ssim_curvature == "center":
            return pixel.addcmul_(window, self._ssim.center_derivative().square_())
        return SsimCurvature(pixel, self._ssim, window)

    def hessian_product(self, images: Images) -> Images:
        """(∂²loss/∂R²)·images, exact where it exists (frozen L1 signs: 0), with the 1/n of the average."""
        loss, n = self.objective.loss, self.objective.num_residuals
        images, scale = images.detach().contiguous(), (1.0 - loss.ssim_weight) / n
        out = penalties.hessian_product(
            loss.kind, self.rendered, self.objective.target, images, delta=loss.delta, scale=scale
        )
        if self.objective.ssim_target is not None:
            out.sub_(self._ssim.hessian_product(images), alpha=loss.ssim_weight / n)
        return out

    @property
    def _error(self) -> Images:
        return self.rendered - self.objective.target

    @cached_property
    def _signs(self) -> Images | None:
        if self.objective.loss.kind != "l1":
            return None
        return self.frozen_signs if self.frozen_signs is not None else torch.sign(self._error)

    @cached_property
    def _ssim(self) -> Ssim:
        assert self.objective.ssim_target is not None
        return Ssim.evaluate(self.rendered, self.objective.ssim_target)
