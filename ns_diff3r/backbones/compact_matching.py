# SPDX-License-Identifier: Apache-2.0
"""Photometric plane sweep: inverse depths that are sensible before anything is learned.

Windows of the reference image are compared with those of the other views by their normalised cross-correlation (blind
to exposure), averaged over the views that match best, and smoothed. Then views inform each other: a candidate is more
likely where another view's depth agrees, and less likely where it would stand in front of what another view sees.

Nothing here has parameters or gradients; the network adds what it learns to the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

from ..dataclass_state import DefaultsForMissingFields
from .compact_geometry import SweepGeometry

VARIANCE_FLOOR = 1e-4
"""Added to (co)variances of windows of colours in [0, 1]: noise of one percent counts as texture of none."""
OUTSIDE = 0.4
"""Similarity of a point outside the other image or behind its camera, between a good match (1) and a bad one (0)."""
CONFLICT_MARGIN = 2.5
"""By how many candidate spacings a point must stand in front of another view's surface to be in conflict."""


@dataclass(frozen=True)
class MatchingConfig(DefaultsForMissingFields):
    """How photographs are matched before anything is learned. The defaults are measured (docs)."""

    window: int = 2
    """Radius of the windows that are compared, in pixels of the matching resolution."""
    smoothing: int = 2
    """Radius of the box that similarities are averaged over."""
    best: int = 3
    """Average the similarity over this many of the views that match best (the others may be occluded)."""
    temperature: float = 0.05
    """Similarities (0 to 1) divided by this are the logits of the depth candidates."""
    rounds: int = 1
    """How often views inform each other."""
    support: float = 3.0
    """Logit that a candidate gains where the depth of another view agrees."""
    conflict: float = 3.0
    """Logit that a candidate loses where it hides what another view sees."""


def candidate_fractions(count: int, like: Tensor) -> Float[Tensor, "D 1 1"]:
    """`count` inverse depths from 1/far (0) to 1/near (1), evenly spaced, as `SweepGeometry.project` takes them."""
    return torch.linspace(0, 1, count, dtype=like.dtype, device=like.device)[:, None, None]


@torch.no_grad()
def photometric_logits(
    images: Float[Tensor, "V 3 h w"], geometry: SweepGeometry, num_depths: int, config: MatchingConfig
) -> Float[Tensor, "V D h w"]:
    """Logits of the depth candidates of every pixel, from the photographs alone."""
    volumes = [_similarities(view, images, geometry, num_depths, config) for view in range(geometry.num_views)]
    photometric = box_filter(torch.stack(volumes), config.smoothing) / config.temperature
    logits = photometric
    for _ in range(config.rounds):
        fractions, confidence = expected_fraction(logits)
        gains = [
            _agreement(view, candidate_fractions(num_depths, images), fractions, confidence, geometry, num_depths)
            for view in range(geometry.num_views)
        ]
        support, conflict = (torch.stack(part) for part in zip(*gains, strict=True))
        logits = photometric + config.support * support - config.conflict * conflict
    return logits


def expected_fraction(logits: Float[Tensor, "V D h w"]) -> tuple[Float[Tensor, "V h w"], Float[Tensor, "V h w"]]:
    """Expected inverse depth (as a fraction), and its confidence: the probability within 1½ candidates around it."""
    probabilities = logits.softmax(dim=1)
    candidates = candidate_fractions(logits.shape[1], logits)
    fractions = (probabilities * candidates).sum(1)
    near_it = (candidates - fractions.detach()[:, None]).abs() * (logits.shape[1] - 1) < 1.5
    return fractions, (probabilities * near_it).sum(1)


def consistency(
    fractions: Float[Tensor, "V h w"], confidence: Float[Tensor, "V h w"], geometry: SweepGeometry, num_depths: int
) -> tuple[Float[Tensor, "V h w"], Float[Tensor, "V h w"]]:
    """For every pixel at its depth: how many other views agree, and in how many it hides what they see.

    Both are weighted by confidence and divided by N.
    """
    results = [
        _agreement(view, fractions[view][None], fractions, confidence, geometry, num_depths)
        for view in range(geometry.num_views)
    ]
    support, conflict = (torch.cat(part) for part in zip(*results, strict=True))
    count = geometry.neighbors.shape[1]
    return support / count, conflict / count


def box_filter(images: Float[Tensor, "B C h w"], radius: int) -> Float[Tensor, "B C h w"]:
    """Mean over a square of 2·radius + 1 pixels, the border repeated."""
    if radius == 0:
        return images
    size = 2 * radius + 1
    rows = avg_pool2d(pad(images, (0, 0, radius, radius), mode="replicate"), (size, 1), stride=1)
    return avg_pool2d(pad(rows, (radius, radius, 0, 0), mode="replicate"), (1, size), stride=1)


def _similarities(
    view: int, images: Float[Tensor, "V 3 h w"], geometry: SweepGeometry, num_depths: int, config: MatchingConfig
) -> Float[Tensor, "D h w"]:
    """Similarity in [0, 1] of every pixel's window with those of the other views, averaged over the best of them."""
    height, width = geometry.size
    positions, inside, _ = geometry.project(view, candidate_fractions(num_depths, images))
    others = images[geometry.neighbors[view]]
    count = len(others)
    warped = grid_sample(
        others, positions.view(count, num_depths * height, width, 2), padding_mode="border", align_corners=False
    ).view(count, 3, num_depths, height, width)

    def mean(values: Tensor) -> Tensor:
        return box_filter(values.reshape(-1, 1, height, width), config.window).view(values.shape)

    reference = images[view][:, None]  # [3, 1, h, w]
    mean_warped, mean_reference = mean(warped), mean(reference)
    variance_warped = (mean(warped.square()) - mean_warped.square()).mean(1).clamp_min_(0)
    variance_reference = (mean(reference.square()) - mean_reference.square()).mean(0).clamp_min_(0)
    covariance = (mean(warped * reference) - mean_warped * mean_reference).mean(1)
    deviation = (variance_warped * variance_reference).sqrt_()
    correlation = (covariance + VARIANCE_FLOOR) / (deviation + VARIANCE_FLOOR)
    similarity = torch.where(inside, correlation.clamp_(0, 1), OUTSIDE)
    return similarity.topk(min(config.best, count), dim=0).values.mean(0)


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
    positions, inside, other = geometry.project(view, candidates)
    count, num_candidates, height, width = other.shape
    neighbors = geometry.neighbors[view]
    seen = grid_sample(
        torch.stack([fractions, confidence], dim=1)[neighbors],
        positions.view(count, num_candidates * height, width, 2),
        padding_mode="border",
        align_corners=False,
    ).view(count, 2, num_candidates, height, width)
    weight = seen[:, 1] * inside
    in_front = (other - seen[:, 0]) * (num_depths - 1)  # in candidate spacings
    support = (weight * (-0.5 * in_front.square()).exp()).sum(0)
    conflict = (weight * (2 * (in_front - CONFLICT_MARGIN)).sigmoid()).sum(0)
    return support, conflict
