# SPDX-License-Identifier: Apache-2.0
"""Backward modes measured on one scene: against differences of the frozen optimisation, and against the exact adjoint.

Vectors are compared in units of what they are steps of: a parameter's learning rate, and the value of λ itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..rasterization import render
from ..solver import BackwardConfig, BackwardMode, DifferentiableTTO, MetaGradConfig, TTOConfig, TTOSolution
from ..splats import Gaussians, Views
from .directions import directions
from .frozen_tto import FrozenTTO
from .measure import reset_peak, resident_bytes

Evaluation = Callable[[Tensor, Tensor], float]
"""(start, multiplier) → the outer loss."""

EXACT = "adjoint"
MODES: dict[str, tuple[BackwardMode, BackwardConfig]] = {
    EXACT: (BackwardMode.ADJOINT, BackwardConfig()),
    "adjoint-recomputation": (BackwardMode.ADJOINT, BackwardConfig(trajectory="recomputation")),
    "adjoint-differences": (BackwardMode.ADJOINT, BackwardConfig(hessian="finite_difference")),
    "adjoint-gauss-newton": (BackwardMode.ADJOINT, BackwardConfig(hessian="gauss_newton")),
    "truncated": (BackwardMode.TRUNCATED, BackwardConfig(num_iterations=10)),
    "implicit": (BackwardMode.IMPLICIT, BackwardConfig()),
    "metagrad": (BackwardMode.METAGRAD, BackwardConfig()),
    "first_order": (BackwardMode.FIRST_ORDER, BackwardConfig()),
    "unroll": (BackwardMode.UNROLL, BackwardConfig()),
}
"""What `ns-diff3r gradcheck --modes` can compare. "metagrad" has five anchors, of the target views."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One optimisation to be differentiated, in the frame in which it runs."""

    config: TTOConfig
    start: Gaussians
    prior: float
    context: Views
    targets: Views

    def units(self, multiplier: bool) -> Float[Tensor, " P"]:
        """What one step of every parameter is: its learning rate; of every λ: its value. 0 for frozen groups."""
        flat = torch.zeros(self.start.num_parameters, dtype=torch.float64)
        rates = asdict(self.config.learning_rates)
        for name, part in self.start.group_slices().items():
            if name not in self.config.frozen_groups:
                flat[part] = self.prior if multiplier else rates[name]
        return flat

    def outer_loss(self, gaussians: Gaussians) -> Tensor:
        """MSE of the target views."""
        config = self.config
        background = None if config.background is None else gaussians.means.new_tensor(config.background)
        cameras = self.targets.cameras.to(dtype=gaussians.dtype)
        rgb = render(gaussians, cameras, config.preset, background, config.antialiased, config.backend).rgb
        return (rgb - self.targets.images.to(rgb)).square().mean()


@dataclass(frozen=True, eq=False)
class ModeGradient:
    """What one mode says, and what it cost."""

    start: Float[Tensor, " P"]
    multiplier: Float[Tensor, " P"]
    solution: TTOSolution
    forward_seconds: float
    backward_seconds: float
    peak_bytes: float


def mode_gradient(problem: Problem, name: str, dtype: torch.dtype) -> ModeGradient:
    """∂L_out/∂θ⁰ and ∂L_out/∂λ (one λ per parameter) as flat float64 vectors, by the layer in `dtype`."""
    mode, backward = MODES[name]
    steps = problem.config.num_steps
    if mode is BackwardMode.METAGRAD:
        anchors = MetaGradConfig(stride=max(1, steps // 5), min_steps=0, max_steps=0)
        backward = replace(backward, metagrad=anchors)
    backend = "reference" if mode is BackwardMode.UNROLL else problem.config.backend
    config = replace(problem.config, backward_mode=mode, backward=backward, backend=backend)
    start = problem.start.map(lambda leaf: leaf.detach().to(dtype, copy=True).requires_grad_())
    multiplier = start.map(lambda leaf: torch.full_like(leaf, problem.prior).requires_grad_())
    anchored = problem.outer_loss if mode is BackwardMode.METAGRAD else None
    peak = _Peak()
    begin = time.perf_counter()
    theta, solution = DifferentiableTTO(config)(start, multiplier, problem.context.to(dtype=dtype), anchored)
    forward = time.perf_counter() - begin
    if solution.anchor_loss is not None:
        value, solution.anchor_loss = solution.anchor_loss, None
        seeds, outputs = None, (value,)
    else:
        outputs = theta.leaves()
        seeds = torch.autograd.grad(problem.outer_loss(theta), outputs)
    inputs = (*start.leaves(), *multiplier.leaves())
    begin = time.perf_counter()
    gradients = torch.autograd.grad(outputs, inputs, seeds, allow_unused=True)
    backward_seconds = time.perf_counter() - begin
    flat = [torch.zeros_like(x) if g is None else g.detach() for g, x in zip(gradients, inputs, strict=True)]
    half = len(flat) // 2
    by_start, by_multiplier = (Gaussians(*part).flatten().detach().double() for part in (flat[:half], flat[half:]))
    return ModeGradient(by_start, by_multiplier, solution, forward, backward_seconds, peak.bytes())


class _Peak:
    """Resident memory above what there was; NaN where the system does not tell."""

    def __init__(self) -> None:
        try:
            reset_peak()
            self.before = resident_bytes()[0]
        except OSError:
            self.before = None

    def bytes(self) -> float:
        return math.nan if self.before is None else float(resident_bytes()[1] - self.before)


@dataclass(frozen=True, eq=False)
class Differences:
    """Central differences of the frozen optimisation along fixed directions of one group."""

    part: slice
    directions: Float[Tensor, "D G"]
    """In units."""
    values: Float[Tensor, " D"]

    def agreement(self, gradient: Float[Tensor, " P"], units: Float[Tensor, " P"]) -> tuple[float, float]:
        """(cosine, relative error) of ⟨gradient, direction⟩ over the directions."""
        return compare_vectors(self.directions @ (gradient * units)[self.part], self.values)


def compare_vectors(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """(cosine, relative error); the cosine is NaN if either vanishes."""
    size = float(truth.norm())
    if size == 0.0:
        return math.nan, math.nan
    both = size * float(found.norm())
    return (float(found @ truth) / both if both else math.nan), float((found - truth).norm()) / size


class Ruler:
    """The frozen optimisation of a problem, evaluated in float64, from which all comparisons of it are made."""

    def __init__(
        self,
        problem: Problem,
        exact: ModeGradient,
        dtype: torch.dtype = torch.float64,
        keep: Callable[[Evaluation], Evaluation] = lambda function: function,
    ) -> None:
        """`exact`: whose own direction is among those along which differences are taken; `dtype`: its precision, in
        which everything discrete is decided; `keep`: around the frozen optimisation (`KeptValues.of`)."""
        self.problem, self.exact = problem, exact
        self.start = problem.start.flatten().double()
        self.multiplier = torch.full_like(self.start, problem.prior)
        scale = exact.solution.curvature_scale
        assert scale is not None
        start = problem.start.to(dtype=torch.float64)
        # The numbers that the modes see: rounded further, a photograph would decide other signs.
        views = [views.to(dtype=dtype).to(dtype=torch.float64) for views in (problem.context, problem.targets)]
        decided_in = None if dtype == torch.float64 else dtype
        self.recorded = FrozenTTO.record(problem.config, start, self.multiplier, scale, *views, decided_in=decided_in)
        self.evaluate = keep(self.recorded)
        self.value = self.evaluate(self.start, self.multiplier)

    def outer_loss(self, step: Float[Tensor, " P"], multiplier: bool) -> float:
        """L_out after θ⁰ (or λ) has been moved by `step`."""
        if multiplier:
            return self.evaluate(self.start, self.multiplier + step)
        return self.evaluate(self.start + step, self.multiplier)

    def differences(
        self, multiplier: bool, count: int, size: float, progress: Callable[[], object] = lambda: None
    ) -> dict[str, Differences]:
        """Along `count` directions of every group, the first that of the exact gradient; no parameter is moved by more
        than `size` units."""
        units = self.problem.units(multiplier)
        gradient = (self.exact.multiplier if multiplier else self.exact.start) * units
        found = {}
        for seed, (name, part) in enumerate(self.problem.start.group_slices().items()):
            if part.stop == part.start or name in self.problem.config.frozen_groups:
                continue
            lines, values = [], []
            for direction in directions(gradient[part], count, seed):
                step = torch.zeros_like(units)
                step[part] = direction * units[part]
                h = size / float(direction.abs().max())
                change = self.outer_loss(h * step, multiplier) - self.outer_loss(-h * step, multiplier)
                lines.append(direction)
                values.append(change / (2 * h))
                progress()
            found[name] = Differences(part, torch.stack(lines), torch.tensor(values, dtype=torch.float64))
        return found

    def gradient(self) -> dict[str, Float[Tensor, " P"]]:
        """∂L_out/∂θ⁰ and ∂L_out/∂λ of the frozen function, by the exact adjoint in float64."""
        return dict(zip(("θ⁰", "λ"), self.recorded.gradient(self.start, self.multiplier), strict=True))

    def decrease(self, gradient: Float[Tensor, " P"], multiplier: bool, size: float) -> float:
        """How far L_out falls after one step against the gradient, steepest in units, largest change `size` units, and
        the optimisation run again with everything that jumps frozen."""
        units = self.problem.units(multiplier)
        direction = gradient * units
        largest = float(direction.abs().max())
        if not 0.0 < largest < math.inf:
            return 0.0 if largest == 0.0 else math.nan
        step = -(size / largest) * direction * units
        return self.value - self.outer_loss(step, multiplier)


def measure_modes(
    problem: Problem,
    names: Sequence[str],
    dtype: torch.dtype,
    count: int,
    sizes: tuple[float, float],
    progress: Callable[[], object] = lambda: None,
    keep: Callable[[Evaluation], Evaluation] = lambda function: function,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(one row a mode, one row a mode, gradient and group).

    Args:
        dtype: precision of the modes; differences are always in float64.
        count: directions per group for differences; 0: none, the exact adjoint is the only truth.
        sizes: steps of the differences to θ⁰ and to λ, in units.
        progress: called once a direction.
        keep: around the function whose differences are taken (`KeptValues.of`).
    """
    found = {name: mode_gradient(problem, name, dtype) for name in dict.fromkeys((EXACT, *names))}
    exact = found[EXACT]
    ruler = Ruler(problem, exact, dtype, keep)
    steps = dict(zip(("θ⁰", "λ"), sizes, strict=True))
    truth = {to: ruler.differences(to == "λ", count, size, progress) if count else {} for to, size in steps.items()}
    wide = ruler.gradient() if dtype != torch.float64 and EXACT in names else None
    steepest = {to: ruler.decrease(_of(exact, to), to == "λ", DECREASE_STEP) for to in truth}
    summary, details = [], []
    for name in names:
        mode, row = found[name], {"mode": name}
        for to, by_group in truth.items():
            gradient, units = _of(mode, to), problem.units(to == "λ")
            cosine, error = compare_vectors(gradient * units, _of(exact, to) * units)
            row |= {f"cos {to}": cosine, f"error {to}": error}
            fall = ruler.decrease(gradient, to == "λ", DECREASE_STEP)
            row[f"decrease {to}"] = fall / steepest[to] if steepest[to] else math.nan
            worst = []
            for group, part in problem.start.group_slices().items():
                if part.stop == part.start or group in problem.config.frozen_groups:
                    continue
                detail: dict[str, Any] = {"mode": name, "gradient to": to, "group": group}
                vectors = (gradient * units)[part], (_of(exact, to) * units)[part]
                detail["cosine to adjoint"], detail["error to adjoint"] = compare_vectors(*vectors)
                if name == EXACT and wide is not None:
                    agreement = compare_vectors(vectors[0], (wide[to] * units)[part])
                    detail["cosine to float64"], detail["error to float64"] = agreement
                if group in by_group:
                    agreement = by_group[group].agreement(gradient, units)
                    detail["cosine to differences"], detail["error to differences"] = agreement
                    worst.append(agreement[0])
                details.append(detail)
            if worst:
                row[f"worst cos {to} to differences"] = min(worst)
        row |= {
            "stationarity": mode.solution.stationarity,
            "forward s": mode.forward_seconds,
            "backward s": mode.backward_seconds,
            "peak MiB": mode.peak_bytes / 2**20,
        }
        summary.append(row)
    return summary, details


DECREASE_STEP = 0.3
"""Largest change of a parameter in the step whose decrease is measured, in units."""


def _of(mode: ModeGradient, to: str) -> Tensor:
    return mode.multiplier if to == "λ" else mode.start
