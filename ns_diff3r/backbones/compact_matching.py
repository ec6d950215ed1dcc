# SPDX-License-Identifier: Apache-2.0
"""Photometric plane sweep: inverse depths that are sensible before anything is learned.

Windows of the reference image are compared with those of the other views by their normalised cross-correlation (blind
to exposure), averaged over the views that match best, and smoothed. Then views inform each other: a candidate is more
likely where another view's depth agrees, and less likely where it would stand in front of what another view sees.

Nothing here has parameters or gradients; the network adds what it learns to the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ..dataclass_state import DefaultsForMissingFields
from .compact_geometry import SweepGeometry, sample

VARIANCE_FLOOR = 1e-4
"""Added to (co)variances of windows of colours in [0, 1]: noise of one percent counts as texture of none."""
OUTSIDE = 0.4
"""Similarity of a point outside the other image or behind its camera, between a good match (1) and a bad one (0)."""
CONFLICT_MARGIN = 2.5
"""By how many candidate spacings a point must stand in front of another view's surface to be in conflict."""


@dataclass(frozen=True)
class MatchingConfig(DefaultsForMissingFields):
    """How photographs are matched before anything is learned; the defaults predict held-out photographs best."""

    window: int = 2
    """Radius of the windows that are compared, in pixels of the matching resolution."""
    smoothing: int = 2
    """Radius of the box that similarities are averaged over."""
    best: int = 2
    """Average the similarity over this many of the views that match best (the others may be occluded)."""
    temperature: float = 0.03
    """Similarities (0 to 1) divided by this are the logits of the depth candidates."""
    rounds: int = 2
    """How often views inform each other."""
    support: float = 15.0
    """Logit that a candidate gains where the depth of another view agrees."""
    conflict: float = 5.0
    """Logit that a candidate loses where it hides what another view sees."""
    points: float = 40.0
    """Logit that a candidate gains where sparse points lie, if there are any (`Views.points`)."""
    points_radius: float = 1.5
    """How far a sparse point speaks for the pixels around it: standard deviation, in pixels of the matching
    resolution."""

    def __post_init__(self) -> None:
        for name in ("window", "smoothing", "rounds", "support", "conflict", "points"):
            if getattr(self, name) < 0:
                raise ValueError(f"MatchingConfig.{name} must not be negative, not {getattr(self, name)}")
        if self.best < 1 or not self.temperature > 0 or not self.points_radius > 0:
            raise ValueError("MatchingConfig: best must be at least 1, temperature and points_radius positive")


def candidate_fractions(count: int, like: Tensor) -> Float[Tensor, "D 1 1"]:
    """`count` inverse depths from 1/far (0) to 1/near (1), evenly spaced, as `SweepGeometry.project` takes them."""
    return torch.linspace(0, 1, count, dtype=like.dtype, device=like.device)[:, None, None]


@torch.no_grad()
def photometric_logits(
    images: Float[Tensor, "V 3 h w"],
    geometry: SweepGeometry,
    num_depths: int,
    config: MatchingConfig,
    evidence: Float[Tensor, "V D h w"] | None = None,
) -> Float[Tensor, "V D h w"]:
    """Logits of the depth candidates of every pixel, from the photographs alone, or with `evidence` (0 to 1) of sparse
    points."""
    candidates = candidate_fractions(num_depths, images)
    views = range(geometry.num_views)
    volumes = torch.stack([_similarities(view, images, geometry, candidates, config) for view in views])
    photometric = box_filter(volumes, config.smoothing) / config.temperature
    if evidence is not None:
        photometric = photometric + config.points * evidence
    logits = photometric
    for _ in range(config.rounds):
        fractions, confidence = expected_fraction(logits)
        gains = []
        for view in views:
            support, conflict = _agreement(view, candidates, fractions, confidence, geometry, num_depths)
            gains.append(config.support * support - config.conflict * conflict)
        logits = photometric + torch.stack(gains)
    return logits


def expected_fraction(logits: Float[Tensor, "V D h w"]) -> tuple[Float[Tensor, "V h w"], Float[Tensor, "V h w"]]:
    """Expected inverse depth (as a fraction), and its confidence: the probability within 1½ candidates around it."""
    probabilities = logits.softmax(dim=1)
    candidates = candidate_fractions(logits.shape[1], logits)
    fractions = (probabilities * candidates).sum(1)
    near_it = (candidates - fractions.detach()[:, None]).abs() * (logits.shape[1] - 1) < 1.5
    return fractions, (probabilities * near_it).sum(1)


class Consistency(NamedTuple):
    """What the other views say about every pixel at its depth; means over the N views it is matched with."""

    support: Float[Tensor, "V h w"]
    """Share that agrees, weighted by their confidence."""
    conflict: Float[Tensor, "V h w"]
    """Share whose sight of something it blocks, weighted by their confidence."""
    seen: Float[Tensor, "V h w"]
    """Share in whose image it lies."""
    parallax: Float[Tensor, "V h w"]
    """log(1 + pixels of the matching resolution that it moves by in them from one depth candidate to the next)."""


@torch.no_grad()
def consistency(
    fractions: Float[Tensor, "V h w"], confidence: Float[Tensor, "V h w"], geometry: SweepGeometry, num_depths: int
) -> Consistency:
    """Compare the depths of all views."""
    height, width = geometry.size
    half_pixels = fractions.new_tensor([width / 2, height / 2])
    maps = []
    for view in range(geometry.num_views):
        at_depth = fractions[view][None]
        support, conflict = _agreement(view, at_depth, fractions, confidence, geometry, num_depths)
        here, nearer = (geometry.project(view, at_depth + shift / (num_depths - 1)) for shift in (0, 1))
        moved = ((nearer.positions - here.positions).clamp(-2, 2) * half_pixels).norm(dim=-1)
        count = len(moved)
        maps.append((support / count, conflict / count, here.inside.to(moved).mean(0), moved.mean(0).log1p()))
    return Consistency(*(torch.cat(parts) for parts in zip(*maps, strict=True)))


def box_filter(maps: Float[Tensor, "*batch h w"], radius: int) -> Float[Tensor, "*batch h w"]:
    """Mean over a square of 2·radius + 1 pixels, the border repeated."""
    if radius == 0:
        return maps
    height, width = maps.shape[-2:]
    padded = pad(maps.reshape(-1, 1, height, width), (radius,) * 4, mode="replicate")
    # Sums of shifted views: on a CPU several times faster than pooling with stride 1.
    rows = padded[..., :height, :] + padded[..., 1 : 1 + height, :]
    for shift in range(2, 2 * radius + 1):
        rows += padded[..., shift : shift + height, :]
    total = rows[..., :width] + rows[..., 1 : 1 + width]
    for shift in range(2, 2 * radius + 1):
        total += rows[..., shift : shift + width]
    return total.div_((2 * radius + 1) ** 2).view(maps.shape)


def _similarities(
    view: int,
    images: Float[Tensor, "V 3 h w"],
    geometry: SweepGeometry,
    candidates: Float[Tensor, "D 1 1"],
    config: MatchingConfig,
) -> Float[Tensor, "D h w"]:
    """Similarity in [0, 1] of every pixel's window with those of the other views, averaged over the best of them."""
    positions, inside, _ = geometry.project(view, candidates)
    others = images[geometry.neighbors[view]]
    warped = sample(others, positions)  # [N, 3, D, h, w]
    reference = images[view][:, None]  # [3, 1, h, w]

    # Covariances of windows, summed over colours before the filter where it allows.
    mean_warped, mean_reference = box_filter(warped, config.window), box_filter(reference, config.window)
    variance_warped = box_filter(warped.square().sum(1), config.window) - mean_warped.square().sum(1)
    variance_reference = box_filter(reference.square().sum(0), config.window) - mean_reference.square().sum(0)
    covariance = box_filter((warped * reference).sum(1), config.window) - (mean_warped * mean_reference).sum(1)
    deviation = (variance_warped.clamp_min_(0) * variance_reference.clamp_min_(0)).sqrt_()
    correlation = (covariance + 3 * VARIANCE_FLOOR) / (deviation + 3 * VARIANCE_FLOOR)
    similarity = (correlation.clamp_(0, 1) - OUTSIDE) * inside + OUTSIDE  # torch.where is slow on a CPU
    return _mean_of_best(similarity, config.best)


def _mean_of_best(values: Float[Tensor, "N *rest"], best: int) -> Float[Tensor, "*rest"]:
    """Mean of the `best` largest of N values (all, if there are not more)."""
    if best >= len(values):
        return values.mean(0)
    if best == len(values) - 1:  # the usual case, and topk is slow
        return (values.sum(0) - values.amin(0)) / best
    return values.topk(best, dim=0).values.mean(0)


def _agreement(
    view: int,
    candidates: Float[Tensor, "D h w"] | Float[Tensor, "D 1 1"],
    fractions: Float[Tensor, "V h w"],
    confidence: Float[Tensor, "V h w"],
    geometry: SweepGeometry,
    num_depths: int,
) -> tuple[Float[Tensor, "D h w"], Float[Tensor, "D h w"]]:
    """For points of a view: the confidence of the other views that see them at their depth, and of those in front of
    whose surface they stand; sums over the other views."""
    positions, inside, inverse_depth = geometry.project(view, candidates)
    surfaces = torch.stack([fractions, confidence], dim=1)[geometry.neighbors[view]]
    seen, weight = sample(surfaces, positions).unbind(1)
    weight = weight * inside
    in_front = (geometry.neighbor_fractions(view, inverse_depth) - seen) * (num_depths - 1)  # in candidate spacings
    support = (weight * (-0.5 * in_front.square()).exp()).sum(0)
    conflict = (weight * (2 * (in_front - CONFLICT_MARGIN)).sigmoid()).sum(0)
    return support, conflict
