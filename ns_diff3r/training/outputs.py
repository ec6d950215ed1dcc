# SPDX-License-Identifier: Apache-2.0
"""What a training step reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..solver import BackwardMode, TTOSolution
from ..solver.inner import TTOStatus
from .stages import Stage

QUANTILES = (0.1, 0.5, 0.9)


class SceneReport:
    """What happened to one scene of a step. Its backward part is filled in while the caller's backward runs.

    Not a dataclass on purpose: DistributedDataParallel looks for tensors in what forward returns, and must not find
    any here.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped: str | None = None
        """Why the scene takes no part in the step, or None."""
        self.scalars: dict[str, float] = {}
        self.solution: TTOSolution | None = None
        """Report of test-time optimisation, in the second stage."""
        self.prior: dict[str, Float[Tensor, "N ..."]] | None = None
        """λ as predicted, detached."""
        self.solve_began: float | None = None
        self.solve_seconds: float | None = None


@dataclass(eq=False)
class StepOutput:
    """Losses of a step, and what there is to log."""

    losses: dict[str, Float[Tensor, ""]]
    """Terms to be summed and differentiated by the caller. Always finite, always differentiable."""
    stage: Stage
    step: int
    scalars: dict[str, float]
    """Numbers known after forward; means over the scenes that took part."""
    scenes: list[SceneReport] = field(repr=False)
    """One report per scene of the batch."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Sum of all terms."""
        return torch.stack(list(self.losses.values())).sum()

    @property
    def warnings(self) -> list[str]:
        """What the caller should know, each with the scene's name."""
        texts: list[str] = []
        for scene in self.scenes:
            if scene.skipped is not None:
                texts.append(f"{scene.name}: skipped: {scene.skipped}")
            elif scene.solution is not None:
                texts += [f"{scene.name}: {text}" for text in scene.solution.warnings]
                if scene.solution.backward is not None:
                    texts += [f"{scene.name}: {text}" for text in scene.solution.backward.warnings]
        return texts

    def backward_scalars(self) -> dict[str, float]:
        """Numbers known once backward has run: of the backward mode, and how many scenes were skipped in all.

        Keys: "skipped_scenes"; in the second stage also "seconds_solve" (sum; whatever the mode), and of linear solves
        "pcg_iterations" and "pcg_residual" (largest) and "pcg_converged" (share of the scenes).
        """
        results = {"skipped_scenes": float(sum(scene.skipped is not None for scene in self.scenes))}
        reports = [s.solution.backward for s in self.scenes if s.solution is not None and s.solution.backward]
        solves = [report for report in reports if report.mode is BackwardMode.IMPLICIT]
        if solves:
            results["pcg_iterations"] = float(max(report.iterations or 0 for report in solves))
            residuals = [math.nan if report.residual is None else report.residual for report in solves]
            results["pcg_residual"] = math.nan if any(map(math.isnan, residuals)) else max(residuals)
            sound = sum(report.status in ("converged", "zero_rhs") for report in solves)
            results["pcg_converged"] = sound / len(solves)
        if reports:
            results["seconds_solve"] = sum(scene.solve_seconds or 0.0 for scene in self.scenes)
        return results

    def prior_histogram(
        self, bins: int = 64, low: float = -6.0, high: float = 6.0
    ) -> dict[str, Float[Tensor, " bins"]]:
        """Counts of log10 λ per attribute group over all scenes, in `bins` bins of equal width from `low` to `high`;
        values beyond fall into the outermost bins. Empty in the first stage."""
        return {
            name: torch.histc(values.clamp(low, high), bins, low, high)
            for name, values in _log_prior(self.scenes).items()
        }


def prior_quantiles(scenes: Iterable[SceneReport]) -> dict[str, float]:
    """ "log10_lambda_<group>_q10", "…_q50" and "…_q90" over the Gaussians of all scenes."""
    results = {}
    for name, values in _log_prior(scenes).items():
        values = values.sort().values
        for quantile in QUANTILES:
            index = round(quantile * (len(values) - 1))
            results[f"log10_lambda_{name}_q{round(100 * quantile)}"] = float(values[index])
    return results


def mean_scalars(scenes: Sequence[SceneReport]) -> dict[str, float]:
    """Means of the scenes' own scalars, each over those that have it."""
    names = dict.fromkeys(name for scene in scenes for name in scene.scalars)
    return {name: _mean([scene.scalars[name] for scene in scenes if name in scene.scalars]) for name in names}


def solution_scalars(solution: TTOSolution) -> dict[str, float]:
    """The numbers of one run of test-time optimisation that are worth a curve."""
    results = {
        "stationarity": solution.stationarity,
        "inner_steps": float(solution.num_steps),
        "inner_image_loss": solution.image_loss,
        "inner_prior_loss": solution.prior_loss,
        "inner_loss_start": solution.loss_curve[0] if solution.loss_curve else math.nan,
        "tto_diverged": float(solution.status is TTOStatus.DIVERGED),
    }
    return results | {f"stationarity_{name}": ratio for name, ratio in solution.group_stationarity.items()}


def _log_prior(scenes: Iterable[SceneReport]) -> dict[str, Float[Tensor, " M"]]:
    collected: dict[str, list[Tensor]] = {}
    for scene in scenes:
        for name, leaf in (scene.prior or {}).items():
            if leaf.numel():
                collected.setdefault(name, []).append(leaf.detach().float().log10().flatten())
    return {name: torch.cat(parts) for name, parts in collected.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
