# SPDX-License-Identifier: Apache-2.0
"""What λ has learned: its rank correlation, over the Gaussians of a scene, with what it should depend on.

The paper's claim is that updates are penalised where the context views do not overlap: λ is larger where fewer of them
see a Gaussian. That is measured here, beside how far test-time optimisation moves what λ holds, and how wrong the
prediction is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.batches import SceneBatch
from ..solver import TTOConfig, TTOSolution, TTOStatus
from ..splats import GROUPS, Gaussians, Views
from ..training.inference import device_of, evaluation_layer, reconstruct
from ..training.step import TrainingModule
from .prior_chance import NUM_HEADS, RandomStrengths, random_strengths
from .rank_correlation import Correlation, spearman
from .visibility import MIN_SHARE, MIN_WEIGHT, ContextVisibility, error_at_gaussians


@dataclass(frozen=True)
class Measure:
    """Something that λ is compared with.

    Attributes:
        key: in files.
        title: in tables.
        claimed: sign of the correlation if λ does what it is said to do; 0: either would be consistent.
        why: of that sign.
    """

    key: str
    title: str
    claimed: Literal[-1, 0, 1]
    why: str


MEASURES = (
    Measure("views", "context views that see it", -1, "what fewer views see is held more firmly"),
    Measure("effective_views", "the same without a threshold", -1, "what fewer views see is held more firmly"),
    Measure("frustum_views", "context views it projects into", -1, "the same by geometry alone, hidden or not"),
    Measure("moved_freely", "|θ*−θ⁰| without prior", 0, "λ may let go what must move, or hold what would overfit"),
    Measure("moved", "|θ*−θ⁰| with the prior", -1, "what is held moves less; λ has no effect otherwise"),
    Measure("zero_shot_error", "zero-shot error there", -1, "λ as confidence: what is wrong is let go"),
)


RANGE = (0.05, 0.95)
"""Quantiles of log λ between which it is said to vary."""


@dataclass(frozen=True)
class Thresholds:
    """When a view sees a Gaussian: see `visibility.ContextVisibility.views`."""

    min_weight: float = MIN_WEIGHT
    """Pixels that it must make up of the view."""
    min_share: float = MIN_SHARE
    """The same as a share of the view in which it is largest."""

    def __post_init__(self) -> None:
        if not (0.0 < self.min_weight < float("inf") and 0.0 <= self.min_share <= 1.0):
            raise ValueError(
                f"min_weight must be positive and min_share lie in [0, 1], not {self.min_weight} and {self.min_share}"
            )


@dataclass(frozen=True, eq=False)
class ItemAnalysis:
    """λ of one prediction, compared.

    Attributes:
        scene: its name.
        images: target images of the scene.
        num_gaussians: predicted.
        num_compared: of them, those that some context view has a pixel of.
        correlations: (group, key of the measure) → rank correlation with λ.
        log_strength: group → number of views that see a Gaussian → (how many, mean of log λ).
        log_range: group → (5 %, 95 %) quantiles of log λ.
        chance: (group, key of the measure) → correlation with the λ of each of several random heads (`prior_chance`);
            of measures that do not depend on λ themselves.
    """

    scene: str
    images: tuple[int, ...]
    num_gaussians: int
    num_compared: int
    correlations: Mapping[tuple[str, str], Correlation]
    log_strength: Mapping[str, Mapping[int, tuple[int, float]]]
    log_range: Mapping[str, tuple[float, float]]
    chance: Mapping[tuple[str, str], Sequence[float | None]]


def analyse_item(
    module: TrainingModule,
    batch: SceneBatch,
    num_steps: int | None = None,
    thresholds: Thresholds | None = None,
    num_random_heads: int = NUM_HEADS,
) -> ItemAnalysis:
    """Predict a scene, optimise it with and without the prior, and compare λ.

    Args:
        module: as trained.
        batch: context and held-out views.
        num_steps: of test-time optimisation; None: as the settings say for evaluation.
        thresholds: when a view sees a Gaussian.
        num_random_heads: to compare with.

    Raises:
        ValueError: no step of optimisation, or one that diverged; what `reconstruct` raises.
    """
    thresholds = thresholds or Thresholds()
    batch = batch.to(device_of(module))
    held = reconstruct(module, batch.context, num_steps)
    if held.solution is None:
        raise ValueError("nothing to compare λ with: test-time optimisation takes no step (see --tto-steps)")
    start, prior, config = held.before, held.output.prior, module.config.evaluation_config(num_steps)
    assert prior is not None
    context = held.output.prediction.as_seen(batch.context)
    with torch.no_grad():
        free, free_solution = evaluation_layer(module, num_steps)(start, None, context)
    compared, shared = _measures_of_views(module, start, context, batch.targets, config, thresholds)
    moves = {
        "moved_freely": displacement(start, free, free_solution, config),
        "moved": displacement(start, held.after, held.solution, config),
    }
    features = held.output.prediction.features
    compared[len(features) :] = False  # Gaussians of sparse points have a λ that the network did not give them
    draws = random_strengths(module.network.uncertainty_head, features, num_random_heads)
    random = RandomStrengths([draw[compared[: len(features)]] for draw in draws])
    of_any_group = {key: random.correlations(value[compared]) for key, value in shared.items()}
    correlations, log_strength, log_range, chance = {}, {}, {}, {}
    for group in GROUPS:
        strength = log_strength_of(prior[group])
        if strength is None or getattr(start, group).numel() == 0:
            empty = Correlation(None, 0, "this network has none of these parameters")
            correlations |= {(group, measure.key): empty for measure in MEASURES}
            continue
        values = {**shared, **{key: of_groups[group] for key, of_groups in moves.items()}}
        for measure in MEASURES:
            pair = (strength.exp(), values[measure.key].double())
            first, second = (column[compared].cpu().numpy() for column in pair)
            correlations[group, measure.key] = spearman(first, second, ("λ", measure.title))
        chance |= {(group, key): of_draws for key, of_draws in of_any_group.items()}
        chance[group, "moved_freely"] = random.correlations(moves["moved_freely"][group][compared])
        low, high = torch.quantile(strength[compared], torch.tensor(RANGE).to(strength)).tolist()
        log_range[group] = (low, high)
        log_strength[group] = _by_views(strength[compared], shared["views"][compared])
    counts = (start.num_gaussians, int(compared.sum()))
    return ItemAnalysis(batch.name, batch.target_indices, *counts, correlations, log_strength, log_range, chance)


@torch.no_grad()
def _measures_of_views(
    module: TrainingModule, start: Gaussians, context: Views, targets: Views, config: TTOConfig, thresholds: Thresholds
) -> tuple[Bool[Tensor, " N"], dict[str, Float[Tensor, " N"]]]:
    """(which Gaussians are compared, the measures that are the same for all attribute groups)."""
    seen = ContextVisibility.of(start, context.cameras, config)
    errors = (module.draw(start, targets.cameras).clamp(0, 1) - targets.images).abs().mean(-1)
    return seen.moved, {
        "views": seen.views(thresholds.min_weight, thresholds.min_share),
        # Rounded: equal shares differ in the last digits, which ranks would take for an order.
        "effective_views": (seen.effective_views() * 1000).round(),
        "frustum_views": seen.frustum_views(),
        "zero_shot_error": error_at_gaussians(start, targets.cameras, errors, config, thresholds.min_weight),
    }


def log_strength_of(strength: Float[Tensor, "N ..."]) -> Float[Tensor, " N"] | None:
    """log λ of every Gaussian, of several parameters their mean; None where a group has no parameters."""
    logs = strength.detach().double().log().flatten(1)
    return logs.mean(1) if logs.shape[1] else None


def displacement(
    start: Gaussians, result: Gaussians, solution: TTOSolution, config: TTOConfig
) -> dict[str, Float[Tensor, " N"]]:
    """|θ*−θ⁰| of every Gaussian per attribute group, root mean square over its parameters, in learning rates.

    Both are taken to the normalised frame of the optimisation, which the learning rates belong to: k Adam steps in one
    direction are k. NaN for a group that does not move (a learning rate of 0, or frozen).

    Raises:
        ValueError: an optimisation that diverged.
    """
    if solution.status is TTOStatus.DIVERGED:
        raise ValueError(f"test-time optimisation diverged: {solution.warnings[0]}")
    rates, moved = asdict(config.learning_rates), {}
    first, last = (solution.frame.apply_gaussians(gaussians.detach()) for gaussians in (start, result))
    for group in GROUPS:
        difference = (getattr(last, group) - getattr(first, group)).double().reshape(start.num_gaussians, -1)
        rate = 0.0 if group in config.frozen_groups else rates[group]
        moved[group] = difference.square().mean(1).sqrt() / (rate or torch.nan)
    return moved


def _by_views(logs: Float[Tensor, " N"], views: Tensor) -> dict[int, tuple[int, float]]:
    found = {int(count): logs[views == count] for count in views.unique()}
    return {count: (len(values), float(values.mean())) for count, values in found.items()}
