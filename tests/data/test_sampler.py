# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import numpy as np
import pytest
import torch

from ns_diff3r.data import (
    BatchSampler,
    CollectionConfig,
    SamplerConfig,
    SceneCollection,
    SceneError,
    SceneWarning,
    SplitConfig,
    load_scene,
    open_collection,
)
from ns_diff3r.data.view_selection import (
    central_view,
    covering_views,
    farthest_views,
    nearest_views,
    view_distances,
)
from tests.data.scene_files import pose, write_scene
from tests.data.test_depth_range import frame_at


def scene_of(path, count):
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": pose(0, (0.1 * i, 0, 0))} for i in range(count)]
    return load_scene(write_scene(path, num_frames=count, frames=frames))


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Forty cameras in a row, all held out but every eighth."""
    return SceneCollection([scene_of(tmp_path_factory.mktemp("line") / "scene", 40)])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    base = tmp_path_factory.mktemp("many")
    return SceneCollection([scene_of(base / f"scene{i}", 6 + i) for i in range(5)])


def plans(sampler, steps, **kwargs):
    return [indices for step in steps for indices in sampler.plan(step, **kwargs)]


@pytest.mark.parametrize("selection", ["nearest", "farthest", "random"])
def test_a_step_is_a_function_of_seed_step_and_rank(many, selection):
    config = SamplerConfig(selection=selection, scenes_per_step=2, seed=3)
    first, second = BatchSampler(config, many), BatchSampler(config, many)
    forward = {step: first.plan(step, 1, 3) for step in range(20)}
    assert all(second.plan(step, 1, 3) == forward[step] for step in reversed(range(20)))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - that the global state does not matter is the point
    assert first.plan(7, 1, 3) == forward[7]
    other = BatchSampler(dataclasses.replace(config, seed=4), many)
    assert any(other.plan(step, 1, 3) != forward[step] for step in range(20))
    assert any(first.plan(step, 0, 3) != forward[step] for step in range(20))
    batch, again = first.batch(5), second.batch(5)
    assert [b.name for b in batch] == [many.names[i.scene] for i in first.plan(5)]
    for b, a in zip(batch, again, strict=True):
        torch.testing.assert_close(b.context.images, a.context.images, rtol=0, atol=0)
        torch.testing.assert_close(b.targets.images, a.targets.images, rtol=0, atol=0)
        assert b.context.num_views == len(b.context_indices)


def test_ranks_share_what_one_process_would_do(many):
    """Two processes with one scene each, and one process with two, choose alike."""
    two, one = (BatchSampler(SamplerConfig(scenes_per_step=n), many) for n in (1, 2))
    for step in range(10):
        assert two.plan(step, 0, 2) + two.plan(step, 1, 2) == one.plan(step)


def test_every_scene_comes_once_before_any_comes_again(many):
    sampler = BatchSampler(SamplerConfig(), many)
    scenes = [indices.scene for indices in plans(sampler, range(25))]
    epochs = [scenes[i : i + 5] for i in range(0, 25, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    held_out = SceneCollection([many.scene(i) for i in range(5)], CollectionConfig(eval_scenes=("scene2",)))
    assert {i.scene for i in plans(BatchSampler(SamplerConfig(), held_out), range(12))} == {0, 1, 3, 4}


@pytest.mark.parametrize("selection", ["nearest", "farthest", "random"])
@pytest.mark.parametrize("num_context", [2, 4])
def test_held_out_images_are_never_used_and_roles_are_apart(line, selection, num_context):
    sampler = BatchSampler(SamplerConfig(selection=selection, num_context=num_context), line)
    chosen = plans(sampler, range(0, 3000, 10))
    training, evaluation = set(line.training_indices(0)), set(line.evaluation_indices(0))
    assert evaluation == {1, 9, 17, 25, 33}
    for indices in chosen:
        assert len(set(indices.context)) == num_context
        assert 1 <= len(set(indices.targets)) <= 4
        assert not set(indices.context) & set(indices.targets)
        assert set(indices.context) | set(indices.targets) <= training
        assert list(indices.context) == sorted(indices.context)
    assert {i for c in chosen for i in c.context} == training
    assert {i for c in chosen for i in c.targets} == training
    assert len({(c.context, c.targets) for c in chosen}) > 200  # new splits every step


def test_one_scene_in_several_places_of_a_step_is_split_anew(line):
    chosen = BatchSampler(SamplerConfig(scenes_per_step=6), line).plan(100)
    assert {indices.scene for indices in chosen} == {0}
    assert len({(indices.context, indices.targets) for indices in chosen}) >= 5


def spans(sampler, steps):
    """Largest distance from one of the views of a step to all others, in units of the row of 40."""
    chosen = [sorted((*c.context, *c.targets)) for c in plans(sampler, steps)]
    return [min(max(abs(i - j) for j in c) for i in c) / 39 for c in chosen]


def test_the_baseline_grows_while_warming_up(line):
    config = SamplerConfig(baseline_start=(0.1, 0.15), baseline_end=(0.3, 0.6), warmup_steps=1000)
    sampler = BatchSampler(config, line)
    begin, middle, end = (spans(sampler, range(s, s + 50)) for s in (0, 475, 1000))
    assert max(begin) <= 0.15 + 0.05 * 0.45
    assert max(middle) <= 0.4
    assert max(end) <= 0.6
    assert np.mean(begin) < np.mean(middle) < np.mean(end)
    assert max(end) > 0.5
    assert spans(sampler, range(5000, 5050)) != end
    at_once = BatchSampler(dataclasses.replace(config, warmup_steps=0), line)
    assert np.mean(spans(at_once, range(50))) > 0.25


def test_the_gap_of_a_video_bounds_as_well(line):
    config = SamplerConfig(
        baseline_start=(1.0, 1.0), baseline_end=(1.0, 1.0), gap_start=(3, 5), gap_end=(8, 12), warmup_steps=100
    )
    sampler = BatchSampler(config, line)
    assert max(spans(sampler, range(10))) * 39 <= 5.4
    end = [39 * span for span in spans(sampler, range(100, 200))]
    assert 8 <= max(end) <= 12.1
    constant = BatchSampler(dataclasses.replace(config, gap_end=None), line)
    assert max(spans(constant, range(100, 200))) * 39 <= 5.1


def test_selections_choose_what_they_say(line):
    distances = view_distances(line.scene(0).frames)
    wide = {"baseline_start": (0.3, 0.3), "baseline_end": (0.3, 0.3), "num_targets": 3}
    by_name = {
        name: plans(BatchSampler(SamplerConfig(selection=name, **wide), line), range(200))
        for name in ("farthest", "random", "nearest")
    }

    def baseline(indices):
        return distances[np.ix_(indices.context, indices.context)].max()

    def target_distance(indices):
        return np.mean([distances[t, list(indices.context)].min() for t in indices.targets])

    means = {name: np.mean([baseline(i) for i in chosen]) for name, chosen in by_name.items()}
    assert means["farthest"] > means["random"] > means["nearest"]
    assert np.mean([baseline(i) > 0.24 for i in by_name["farthest"]]) > 0.9
    near = {name: np.mean([target_distance(i) for i in chosen]) for name, chosen in by_name.items()}
    assert near["nearest"] < near["random"]


@pytest.mark.parametrize(
    ("count", "num_context", "context", "targets", "warns"),
    [(2, 2, 2, 2, True), (3, 2, 2, 2, True), (4, 2, 2, 1, False), (5, 4, 3, 1, True), (9, 4, 4, 4, False)],
)
def test_few_photographs(tmp_path, count, num_context, context, targets, warns):
    """One image is left for the targets where possible; of two training images both are context and targets."""
    collection = SceneCollection([scene_of(tmp_path / "few", count)])
    config = SamplerConfig(num_context=num_context, baseline_start=(2.0, 2.0), baseline_end=(2.0, 2.0))
    if warns:
        with pytest.warns(SceneWarning, match="scene few: "):
            sampler = BatchSampler(config, collection)
    else:
        sampler = BatchSampler(config, collection)
    for step in range(10):
        (batch,) = sampler.batch(step)
        assert batch.context.num_views == context
        assert batch.targets.num_views == targets
        shared = set(batch.context_indices) & set(batch.target_indices)
        assert bool(shared) == (len(collection.training_indices(0)) == 2)
    items = sampler.evaluation_items(0)
    assert all(item.held_out == (count > 2) for item in items)
    assert all(len(item.context) >= 2 and item.targets for item in items)
    sampler.load(items[0])


def test_fewer_targets_than_asked_for_with_two_images(tmp_path):
    collection = SceneCollection([scene_of(tmp_path / "few", 2)])
    with pytest.warns(SceneWarning, match="2 training images, so its targets are context views as well"):
        sampler = BatchSampler(SamplerConfig(num_targets=1), collection)
    assert {sampler.plan(step)[0].targets for step in range(20)} == {(0,), (1,)}


@pytest.mark.parametrize("selection", ["nearest", "farthest"])
def test_the_evaluation_index_is_fixed_and_of_training_images(line, selection):
    samplers = [
        BatchSampler(SamplerConfig(evaluation_selection=selection, num_evaluation_context=3, seed=s), line)
        for s in (0, 1)
    ]
    items = samplers[0].evaluation_items(0)
    assert samplers[1].evaluation_items(0) == items
    assert samplers[1].evaluation(0) == samplers[0].evaluation(0)
    assert sorted(t for item in items for t in item.targets) == [1, 9, 17, 25, 33]
    assert all(item.held_out for item in items)
    for item in items:
        assert len(item.context) == 3
        assert set(item.context) <= set(line.training_indices(0))
    if selection == "nearest":
        assert (0, 2, 3) in [item.context for item in items]
        assert {8, 10} < set(next(item for item in items if item.targets == (9,)).context)
    else:
        assert len(items) == 1
        assert items[0].context == (0, 20, 39) or items[0].context == (0, 19, 39)
    context, targets = samplers[0].evaluation(0)
    assert targets == (1, 9, 17, 25, 33)
    assert len(context) == 3


def test_training_images_stand_in_where_none_is_held_out(line):
    everything = SceneCollection([line.scene(0)], CollectionConfig(split=SplitConfig(all=True)))
    for selection in ("nearest", "farthest"):
        sampler = BatchSampler(SamplerConfig(evaluation_selection=selection), everything)
        assert sampler.evaluation(0)[1] == ()
        items = sampler.evaluation_items(0)
        assert sorted(t for item in items for t in item.targets) == [1, 9, 17, 25, 33]
        assert not any(item.held_out or set(item.context) & set(item.targets) for item in items)


def test_context_views_of_evaluation_can_be_given(line):
    sampler = BatchSampler(SamplerConfig(evaluation_context=(20, 4, 9)), line)
    assert sampler.evaluation(0) == ((4, 9, 20), (1, 17, 25, 33))  # 9 is no longer held out
    (item,) = sampler.evaluation_items(0)
    assert (item.context, item.targets, item.held_out) == ((4, 9, 20), (1, 17, 25, 33), True)
    (item,) = BatchSampler(SamplerConfig(evaluation_context=(1, 9, 17, 25, 33)), line).evaluation_items(0)
    assert not item.held_out
    assert set(item.targets) == set(line.training_indices(0))
    everything = tuple(range(40))
    (item,) = BatchSampler(SamplerConfig(evaluation_context=everything), line).evaluation_items(0)
    assert item.context == item.targets == everything


def test_context_views_that_cannot_be(line, many):
    for context, message in (((1, 40), "no view 40"), ((1, -1), "no view -1"), ((3,), "two"), ((3, 3), "different")):
        with pytest.raises(SceneError, match=f"evaluation_context.*{message}"):
            BatchSampler(SamplerConfig(evaluation_context=context), line)
    with pytest.raises(SceneError, match="evaluation_context is for one scene, the collection has 5"):
        BatchSampler(SamplerConfig(evaluation_context=(0, 1)), many)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_context": 1},
        {"num_evaluation_context": 1},
        {"num_targets": 0},
        {"scenes_per_step": 0},
        {"warmup_steps": -1},
        {"seed": -1},
        {"baseline_start": (0.5, 0.1)},
        {"baseline_end": (-0.1, 0.5)},
        {"gap_start": (5, 3)},
        {"gap_end": (3, 5)},
        {"baseline_start": (0.1, math.nan)},
    ],
)
def test_settings_that_make_no_sense(line, settings):
    with pytest.raises(SceneError, match=next(iter(settings))):
        BatchSampler(SamplerConfig(**settings), line)


def test_steps_and_ranks_that_are_none(line):
    sampler = BatchSampler(SamplerConfig(), line)
    for arguments in ((-1,), (0, 1, 1), (0, -1, 2)):
        with pytest.raises(ValueError, match="step must not be negative"):
            sampler.plan(*arguments)


def test_views_by_position_and_direction():
    frames = [frame_at((0, 0, 0)), frame_at((1, 0, 0)), frame_at((4, 0, 0)), frame_at((0, 0, 0), (1, 0, 0))]
    distances = view_distances(frames)
    np.testing.assert_allclose(distances, distances.T)
    np.testing.assert_allclose(distances[0], [0, 0.25, 1, 1], atol=1e-7)
    assert distances[2, 3] == pytest.approx(np.sqrt(2))
    assert nearest_views(distances, 1, [0, 2, 3], 2) == (0, 2)
    assert nearest_views(distances, 1, [2], 5) == (2,)
    assert farthest_views(distances, 0, [0, 1, 2], 2) == (0, 2)
    assert farthest_views(distances, 0, [0, 1], 5) == (0, 1)
    assert central_view(distances, [0, 1, 2]) == 1
    assert covering_views(distances, [0, 1], [2, 3], 1) == (2,)
    assert covering_views(distances, [2, 3], [0, 1], 1) == (1,)
    assert covering_views(distances, [2, 3], [0, 1], 2) == (0, 1)


def test_real_scenes(dev_scenes):
    collection = open_collection(dev_scenes, CollectionConfig(max_size=32))
    sampler = BatchSampler(SamplerConfig(scenes_per_step=15, num_context=4), collection)
    batches = sampler.batch(2000)
    assert sorted(batch.name for batch in batches) == list(collection.names)
    for batch in batches:
        assert batch.context.num_views == 4
        assert not set(batch.context_indices) & set(batch.target_indices)
        assert batch.context.near is not None
    for scene in range(collection.num_scenes):
        assert sampler.evaluation_items(scene)
