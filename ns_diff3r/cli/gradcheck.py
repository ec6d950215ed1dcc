# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r gradcheck`: the layer's gradient against finite differences through the frozen inner loop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from .scene_options import SceneOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ..solver import TTOConfig, TTOSolution
    from ..splats import Gaussians, Views
    from .kept_values import KeptValues

ALL_COORDINATES_BELOW = 500

ModeName = Literal[
    "adjoint",
    "adjoint-recomputation",
    "adjoint-differences",
    "adjoint-gauss-newton",
    "truncated",
    "implicit",
    "metagrad",
    "first_order",
    "unroll",
]
"""Keys of `ruler.MODES`, which is imported late."""


@dataclass
class SmallScene(SceneOptions):
    """Which scene, which of its views, and the Gaussians to begin with; small, every difference being a whole TTO."""

    num_context: int = 2
    max_size: int = 64
    num_gaussians: int = 1000


@dataclass
class Gradcheck:
    """Compare the gradient of DifferentiableTTO with central differences through the whole optimisation, in float64.

    The optimisation is recorded and replayed with the same depth orders, contributing pairs and L1 signs. A mode that
    is exact agrees to the noise of the differences; mode "implicit" is right at a stationary point alone.
    """

    scene: tyro.conf.OmitArgPrefixes[SmallScene]
    steps: int = 50
    """Inner steps."""
    optimizer: Literal["adam", "sgd", "lm", "gauss_newton"] = "adam"
    """Inner optimiser."""
    learning_rate_factor: float = 1.0
    """Multiplies the default learning rate of every group."""
    rate_decay: Literal["constant", "exponential", "cosine"] = "constant"
    """How learning rates fall, to a hundredth at the last step."""
    loss: Literal["l1", "mse", "huber", "charbonnier"] = "l1"
    """Penalty of the inner loss."""
    ssim_weight: float = 0.2
    """Share of 1 - SSIM in the inner loss."""
    frozen_groups: tuple[str, ...] = ()
    """Attribute groups that TTO leaves as they are."""
    backward_mode: str = "implicit"
    """How the layer differentiates."""
    prior: float = 1.0
    """λ, the same for every Gaussian and group."""
    pcg_tolerance: float = 1e-6
    """Relative residual of the implicit solve."""
    pcg_iterations: int = 1000
    """Iteration cap of the implicit solve."""
    fit_steps: int = 100
    """Fit the Gaussians to the context views this long first, as a prediction would be; 0: as the points are."""
    directions: int = 32
    """Directions per group; below 500 Gaussians all coordinates are used unless `few_directions` is set."""
    few_directions: bool = False
    """Use `directions` below 500 Gaussians too."""
    step: float = 1e-5
    """Largest change of a parameter in a difference, in learning rates of its group. Larger steps meet the jumps that
    Adam has where a parameter's first gradient changes its sign: at 260,000 parameters 1e-3 met so many of them that
    cosines fell to 0.5."""
    prior_step: float = 1e-3
    """Largest change of a λ in a difference, relative to it. The first gradient does not depend on λ, and smaller
    steps drown in rounding."""
    modes: tuple[ModeName, ...] = ()
    """Compare these backward modes instead of checking one: with differences, with the exact adjoint, by the decrease
    of the outer loss after a step, and by what they cost."""
    horizons: tuple[int, ...] = ()
    """With `modes`: numbers of inner steps; default: `steps`."""
    priors: tuple[float, ...] = ()
    """With `modes`: values of λ; default: `prior`."""
    precision: Literal["float32", "float64"] = "float64"
    """With `modes`: what the modes compute in; differences are always taken in float64."""
    initialisation: Literal["points", "network"] = "points"
    """The Gaussians to begin with: at sparse points, or one a pixel and a backdrop as the compact network predicts them
    before any training."""
    chart: Path | None = None
    """With `modes` and `horizons`: draw cosines with the exact adjoint against the number of steps here, as SVG."""
    require_cosine: float | None = None
    """Fail if any cosine is smaller."""
    json: Path | None = None
    """Write the results here. Beside it differences are kept while they are taken (`….partial`): killed or stopped, the
    same command goes on with those it lacks."""

    def config(self) -> TTOConfig:
        """Settings of the layer under test."""
        from ..solver import ImageLoss, LearningRates, PCGConfig, TTOConfig
        from ..solver.backward import BackwardMode
        from ..solver.inner import RateSchedule

        rates = {name: self.learning_rate_factor * rate for name, rate in asdict(LearningRates()).items()}
        return TTOConfig(
            num_steps=self.steps,
            optimizer=self.optimizer,
            learning_rates=LearningRates(**rates),
            rate_schedule=RateSchedule(self.rate_decay),
            loss=ImageLoss(kind=self.loss, ssim_weight=self.ssim_weight),
            frozen_groups=self.frozen_groups,
            backward_mode=BackwardMode(self.backward_mode),
            pcg=PCGConfig(tolerance=self.pcg_tolerance, max_iterations=self.pcg_iterations),
        )

    def run(self) -> int:
        """Print the table; status 1 if a cosine is below `require_cosine`."""
        import torch

        from .tables import print_table, write_json

        scene, start, context, targets = self.scene.load(torch.float64)
        if targets is None:
            raise ValueError(f"{scene.path}: no view is left as target; give --targets")
        if self.initialisation == "network":
            start = _predicted(context)
        config = self.config()
        start, context, targets = _prepare(start, context, targets, self.fit_steps, config)
        config = replace(config, normalize_frame=False)  # it is normalised already
        if self.modes:
            from .gradcheck_modes import compare_modes

            return compare_modes(self, config, start, context, targets)
        kept = keep_differences(self)
        rows, report = check(self, config, start, context, targets, kept)
        caption = (
            f"{start.num_gaussians} Gaussians, {context.num_views} context and {targets.num_views} target views of "
            f"{context.cameras.width}x{context.cameras.height}, {self.steps} {self.optimizer} steps, "
            f"{self.loss} + {self.ssim_weight:g} SSIM, λ = {self.prior:g}, mode {self.backward_mode}\n"
            f"stationarity {report['stationarity']:.3g}, solve: {report['iterations']} iterations, "
            f"residual {report['residual']:.2g}"
        )
        print_table(f"gradcheck {self.scene.data}", rows, caption)
        for warning in report["warnings"]:
            print(f"note: {warning}")
        if self.json is not None:
            write_json(self.json, {"command": plain(asdict(self)), "rows": rows, **report})
        kept.finish()
        worst = min((row["cosine"] for row in rows if row["cosine"] == row["cosine"]), default=0.0)
        if self.require_cosine is not None and worst < self.require_cosine:
            print(f"FAILED: a cosine of {worst:.4f} is below {self.require_cosine}")
            return 1
        return 0


def _predicted(context: Views) -> Gaussians:
    """What the compact network predicts before any training: one Gaussian a pixel, and a backdrop."""
    import torch

    from ..backbones import CompactConfig

    network = CompactConfig().setup().eval()
    with torch.no_grad():
        return network(context.to(dtype=torch.float32)).gaussians.detach().to(dtype=torch.float64)


def _prepare(
    start: Gaussians, context: Views, targets: Views, fit_steps: int, config: TTOConfig
) -> tuple[Gaussians, Views, Views]:
    """Everything in the frame in which TTO runs, so that steps of the differences have the units of learning rates."""
    import torch

    from ..solver import DifferentiableTTO
    from ..splats.frames import normalized_frame

    if fit_steps:
        with torch.no_grad():
            start, _ = DifferentiableTTO(replace(config, num_steps=fit_steps, optimizer="adam"))(start, None, context)
    frame = normalized_frame(start, context.cameras)
    return frame.apply_gaussians(start).detach(), frame.apply_views(context), frame.apply_views(targets)


def layer_gradient(
    config: TTOConfig, start: Gaussians, prior: float, context: Views, targets: Views
) -> tuple[Tensor, Tensor, Tensor, TTOSolution]:
    """(∂L_out/∂θ⁰, ∂L_out/∂λ, θ*) as flat vectors, and the report: the layer as a training step uses it."""
    import torch

    from ..rasterization import render
    from ..solver import DifferentiableTTO

    leaves = start.map(lambda leaf: leaf.detach().clone().requires_grad_())
    multiplier = start.map(lambda leaf: torch.full_like(leaf, prior).requires_grad_())
    theta, solution = DifferentiableTTO(config)(leaves, multiplier, context)
    background = None if config.background is None else start.means.new_tensor(config.background)
    rendering = render(theta, targets.cameras, config.preset, background, config.antialiased, config.backend)
    (rendering.rgb - targets.images).square().mean().backward()

    def gradient(of: Gaussians) -> Tensor:
        return of.map(lambda leaf: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).flatten()

    return gradient(leaves), gradient(multiplier), theta.detach().flatten(), solution


def check(
    options: Gradcheck, config: TTOConfig, start: Gaussians, context: Views, targets: Views, kept: KeptValues
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row per group for θ⁰ and for λ, and what the run reported; `kept` has the differences of a killed run."""
    import torch
    from rich.progress import Progress

    from .directions import compare
    from .frozen_tto import FrozenTTO

    by_start, by_multiplier, theta, solution = layer_gradient(config, start, options.prior, context, targets)
    multiplier = torch.full_like(by_multiplier, options.prior)
    assert solution.curvature_scale is not None
    assert solution.backward is not None
    recorded = FrozenTTO.record(config, start, multiplier, solution.curvature_scale, context, targets)
    point = start.flatten()
    drift = float((recorded.trajectory.theta - theta).abs().max())
    if drift > 1e-9:
        raise RuntimeError(f"the recorded run differs from the layer's by {drift:.2g}: they are not the same function")

    evaluate = kept.of("check", recorded)
    evaluate(point, multiplier)  # by which kept values are recognised
    every = start.num_gaussians < ALL_COORDINATES_BELOW and not options.few_directions
    count = 0 if every else options.directions
    rates = asdict(config.learning_rates)
    groups = {name: part for name, part in start.group_slices().items() if part.stop > part.start}
    groups = {name: part for name, part in groups.items() if name not in config.frozen_groups}
    total = sum(2 * (count or part.stop - part.start) for part in groups.values())
    rows: list[dict[str, Any]] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("finite differences", total=total)
        for seed, (name, part) in enumerate(groups.items()):
            unit, sizes = rates[name] or max(rates.values()), (options.prior_step, options.step)
            by_name = {
                "λ": (lambda x: evaluate(point, x), multiplier, by_multiplier, multiplier[part], sizes[0]),
                "θ⁰": (lambda x: evaluate(x, multiplier), point, by_start, unit, sizes[1]),
            }
            for to, (function, at, gradient, unit, size) in by_name.items():
                agreement = compare(
                    function,
                    at,
                    part,
                    gradient,
                    unit,
                    count,
                    seed,
                    size,
                    progress=lambda: progress.advance(task),
                )
                rows.append({"gradient to": to, "group": name, **asdict(agreement)})
    rows.sort(key=lambda row: row["gradient to"])
    report = {
        "stationarity": solution.stationarity,
        "group_stationarity": solution.group_stationarity,
        "iterations": solution.backward.iterations,
        "residual": solution.backward.residual if solution.backward.residual is not None else float("nan"),
        "warnings": [*solution.warnings, *solution.backward.warnings],
        "inner_loss": [solution.loss_curve[0], solution.loss_curve[-1]],
    }
    return rows, report


def keep_differences(options: Gradcheck) -> KeptValues:
    """What a killed run of the same command has left beside its JSON; nothing is kept without one."""
    from .kept_values import KeptValues

    command = {name: value for name, value in plain(asdict(options)).items() if name not in ("json", "chart")}
    return KeptValues(options.json and options.json.with_name(options.json.name + ".partial"), command)


def plain(value: Any) -> Any:
    """Paths as text, for JSON."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value
