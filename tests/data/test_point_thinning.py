# SPDX-License-Identifier: Apache-2.0
"""Sparse points of training steps: unevenly thinned, sometimes absent, a function of seed and step."""

import numpy as np
import pytest
import torch

from ns_diff3r.data import BatchSampler, CollectionConfig, SamplerConfig, SceneError, open_collection
from ns_diff3r.data.point_thinning import REGIONS, thinned
from ns_diff3r.splats import SparsePoints

TWO_VIEWS = {"num_context": 2, "num_targets": 2, "warmup_steps": 0}


def cloud(count: int = 4000) -> SparsePoints:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(count, 3, generator=generator)
    return SparsePoints(positions, positions.flip(1))


def rows(points: SparsePoints) -> set[tuple[float, ...]]:
    return {tuple(row) for row in torch.cat([points.positions, points.colors], 1).tolist()}


def test_a_part_is_kept_with_its_colours_and_unevenly():
    whole = cloud()
    shares, cells = [], []
    for seed in range(30):
        part = thinned(whole, np.random.default_rng(seed))
        assert rows(part) < rows(whole)
        shares.append(part.num_points / whole.num_points)
        cell = (part.positions * 2).long() @ torch.tensor([4, 2, 1])
        cells.append(torch.bincount(cell, minlength=8).float() / (whole.num_points / 8))
    assert 0.4 < sum(shares) / len(shares) < 0.6
    spread = torch.stack(cells).std(1).mean()
    even = (0.5 * 0.5 / (whole.num_points / 8)) ** 0.5
    assert spread > 5 * even, "points that are left out one by one do not differ from octant to octant"


@pytest.mark.parametrize("count", [0, 1, REGIONS - 1])
def test_few_points(count):
    part = thinned(cloud(count), np.random.default_rng(1))
    assert part.num_points <= count
    assert rows(part) <= rows(cloud(count))


@pytest.fixture(scope="module")
def collection():
    config = CollectionConfig(image_size=(32, 32), sparse_points=True)
    config.generated.num_textures = 8
    return open_collection("generated", config)


def samplers(collection, **changes):
    return BatchSampler(SamplerConfig(**TWO_VIEWS), collection), BatchSampler(
        SamplerConfig(**TWO_VIEWS, **changes), collection
    )


def test_points_are_absent_as_often_as_asked_and_views_stay_as_they_were(collection):
    always, sometimes = samplers(collection, points_probability=0.7)
    plans = [(always.plan(step)[0], sometimes.plan(step)[0]) for step in range(200)]
    assert all((a.scene, a.context, a.targets) == (s.scene, s.context, s.targets) for a, s in plans)
    assert all(a.with_points for a, _ in plans)
    assert 120 <= sum(s.with_points for _, s in plans) <= 160
    step = next(step for step, (_, s) in enumerate(plans) if not s.with_points)
    without, with_points = sometimes.batch(step)[0], always.batch(step)[0]
    assert without.context.points is None
    assert without.targets.points is None
    assert with_points.context.points is not None
    assert torch.equal(without.context.images, with_points.context.images)


def test_thinning_is_a_function_of_the_step_and_not_done_in_evaluation(collection):
    whole, thin = samplers(collection, thin_points=True)
    original = whole.batch(3)[0].context.points
    first, again, other = (thin.batch(step)[0] for step in (3, 3, 4))
    assert original is not None
    assert rows(first.context.points) < rows(original)
    assert rows(first.context.points) == rows(again.context.points) == rows(first.targets.points)
    assert rows(first.context.points) != rows(other.context.points)
    item = thin.evaluation_items(collection.evaluation_scenes[0])[0]
    evaluated = thin.load(item).context.points
    assert evaluated is not None
    assert rows(evaluated) == rows(whole.load(item).context.points)


def test_a_thinned_scene_may_be_mirrored_too(collection):
    thin = BatchSampler(SamplerConfig(**TWO_VIEWS, thin_points=True), collection)
    both = BatchSampler(SamplerConfig(**TWO_VIEWS, thin_points=True, flip_probability=1.0), collection)
    plain, mirrored = thin.batch(1)[0].context.points, both.batch(1)[0].context.points
    assert plain is not None
    assert mirrored is not None
    assert torch.equal(mirrored.positions, plain.positions * torch.tensor([-1.0, 1.0, 1.0]))


def test_a_share_that_is_none(collection):
    with pytest.raises(SceneError, match="points_probability"):
        BatchSampler(SamplerConfig(points_probability=-0.1), collection)
