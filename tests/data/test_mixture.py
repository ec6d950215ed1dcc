# SPDX-License-Identifier: Apache-2.0
"""Mixtures of sources: shares, scales, bounds, resuming, ranks, and files that cannot be used."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from ns_diff3r.data import (
    BatchSampler,
    CollectionConfig,
    GeneratedConfig,
    SamplerConfig,
    SceneError,
    open_collection,
)
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from ns_diff3r.data.mixture_collection import MixtureCollection
from ns_diff3r.data.scene_order import BLOCK
from tests.data.scene_files import pose, write_scene


def row(folder, count):
    """Cameras in a row."""
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": pose(0, (0.1 * i, 0, 0))} for i in range(count)]
    return write_scene(folder, num_frames=count, frames=frames)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A scene, a folder of three scenes, chunks of two scenes, and a video of forty images."""
    base = tmp_path_factory.mktemp("mixture")
    write_scene(base / "one", num_frames=9)
    for index in range(3):
        write_scene(base / "folder" / f"scene{index}", num_frames=6 + index)
    row(base / "video", 40)
    for name in ("x", "y"):
        row(base / "for_chunks" / name, 7)
    scenes_to_chunks(open_collection(base / "for_chunks"), base / "chunks", test=["y"])
    return base


def mixed(base, *sources, name="mixture.json", **config):
    (base / name).write_text(json.dumps({"sources": list(sources)}))
    return open_collection(base / name, CollectionConfig(**config))


def all_kinds(base, **config):
    return mixed(
        base,
        {"path": "one", "weight": 1},
        {"path": "folder", "name": "many", "weight": 2, "eval_scenes": ["scene2"]},
        {"path": "chunks", "weight": 3, "scale": 0.25},
        {"path": "generated", "weight": 2, "generated": {"num_scenes": 5, "num_textures": 16, "num_views": 4}},
        **{"image_size": (8, 12), **config},
    )


def test_all_kinds_of_sources_in_one(base):
    collection = all_kinds(base)
    assert isinstance(collection, MixtureCollection)
    assert collection.names[:6] == ("one/one", "many/scene0", "many/scene1", "many/scene2", "chunks/x", "chunks/test/y")
    assert collection.names[6] == "generated/generated-000000"
    training = [collection.names[i] for i in collection.training_scenes]
    assert "many/scene2" not in training
    assert "chunks/test/y" not in training
    judged = [collection.names[i] for i in collection.evaluation_scenes]
    assert judged[:3] == ["one/one", "many/scene2", "chunks/test/y"]
    assert not collection.is_read_ahead  # chunks are not
    sampler = BatchSampler(SamplerConfig(num_context=2, num_targets=2), collection)
    batches = [sampler.batch(step)[0] for step in range(12)]
    assert len({batch.name.split("/")[0] for batch in batches}) >= 3
    assert all(batch.context.images.shape[1:] == (8, 12, 3) for batch in batches)
    assert sampler.evaluation_items(collection.evaluation_scenes[1])


def test_scenes_come_by_weight_and_each_once_an_epoch_of_its_source(base):
    collection = mixed(base, {"path": "one", "weight": 1}, {"path": "folder", "weight": 3})
    sampler = BatchSampler(SamplerConfig(scenes_per_step=10), collection)
    names = [collection.names[c.scene] for step in range(600) for c in sampler.plan(step)]
    assert len(names) > BLOCK
    count = Counter(name.split("/")[0] for name in names)
    assert count["folder"] / len(names) == pytest.approx(0.75, abs=0.02)
    folder = [name for name in names if name.startswith("folder")]
    epochs = [folder[i : i + 3] for i in range(0, len(folder) - 3, 3)]
    assert all(len(set(epoch)) == 3 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_source_without_weight_is_only_evaluated(base):
    collection = mixed(base, {"path": "one", "weight": 0}, {"path": "folder", "evaluate": False})
    sampler = BatchSampler(SamplerConfig(), collection)
    assert {collection.names[sampler.plan(step)[0].scene].split("/")[0] for step in range(50)} == {"folder"}
    assert [collection.names[i] for i in collection.evaluation_scenes] == ["one/one"]


def test_a_step_is_a_function_of_seed_step_and_rank_wherever_a_run_continues(base):
    config = SamplerConfig(scenes_per_step=2, seed=3)
    far = 5 * BLOCK
    first = BatchSampler(config, all_kinds(base))
    forward = {step: first.plan(step) for step in (*range(20), far)}
    continued = BatchSampler(config, all_kinds(base))
    assert all(continued.plan(step) == forward[step] for step in (far, *range(19, -1, -1)))
    other = BatchSampler(SamplerConfig(scenes_per_step=2, seed=4), all_kinds(base))
    assert any(other.plan(step) != forward[step] for step in range(20))
    single = BatchSampler(SamplerConfig(scenes_per_step=1, seed=3), all_kinds(base))
    for step in range(20):  # two processes choose what one does
        assert single.plan(step, 0, 2) + single.plan(step, 1, 2) == forward[step]


def test_a_scale_moves_cameras_points_and_depths_and_no_picture(base):
    plain = mixed(base, {"path": "one"}, {"path": "one", "name": "again"}, name="plain.json")
    scaled = mixed(base, {"path": "one"}, {"path": "one", "name": "again", "scale": 0.25})
    for index, factor in ((0, 1.0), (1, 0.25)):
        before, after = (collection.views(index, [0, 3, 5]) for collection in (plain, scaled))
        assert torch.equal(before.images, after.images)
        torch.testing.assert_close(after.cameras.centers, factor * before.cameras.centers)
        torch.testing.assert_close(after.cameras.viewmats[:, :3, :3], before.cameras.viewmats[:, :3, :3])
        torch.testing.assert_close(after.cameras.Ks, before.cameras.Ks)
        torch.testing.assert_close(after.near, factor * before.near)
        torch.testing.assert_close(after.far, factor * before.far)
        torch.testing.assert_close(after.cameras.viewmats, scaled.cameras(index, [0, 3, 5]).viewmats)
        scenes = plain.scene(index), scaled.scene(index)
        np.testing.assert_allclose(scenes[1].points.points, factor * scenes[0].points.points)
        rebuilt = scaled.scene(index).views([0, 3, 5])
        torch.testing.assert_close(rebuilt.cameras.viewmats, after.cameras.viewmats)
        torch.testing.assert_close(rebuilt.near, after.near)


def test_near_and_far_are_the_sources_or_the_collections(base):
    sources = {"path": "one", "near": 0.5, "scale": 2.0}, {"path": "folder", "scale": 2.0}
    collection = mixed(base, *sources, near=0.1, far=50.0)
    own, shared = collection.views(0, [0]), collection.views(1, [0])
    assert (float(own.near), float(own.far)) == (1.0, 50.0)  # 0.5 in the source's unit
    assert float(shared.near) == pytest.approx(0.1)  # the collection's is in the mixture's unit
    assert float(shared.far) == pytest.approx(50.0)


def test_every_source_has_its_own_bounds(base):
    collection = mixed(
        base,
        {"path": "video", "name": "narrow", "gap": [3, 4]},
        {"path": "video", "name": "growing", "gap": [3, 4], "gap_end": [20, 24]},
        {"path": "video", "name": "near", "baseline": [0.05, 0.1]},
        {"path": "video", "name": "wide"},
    )
    wide = {"baseline_start": (1.0, 1.0), "baseline_end": (1.0, 1.0), "warmup_steps": 1000}
    sampler = BatchSampler(SamplerConfig(scenes_per_step=8, num_targets=1, **wide), collection)

    video = mixed(base, {"path": "video", "selection": "bounded", "gap": [10, 10]}, {"path": "one"})
    for indices in BatchSampler(SamplerConfig(scenes_per_step=20), video).plan(0):
        if video.names[indices.scene] == "video/video":
            assert abs(indices.context[1] - indices.context[0] - 10) <= 1  # one of eight is held out
    with pytest.raises(SceneError, match=r"mixture\.json: sources\[0\]: selection bounded needs gap_start"):
        BatchSampler(SamplerConfig(), mixed(base, {"path": "video", "selection": "bounded"}))

    def spans(steps):
        found = {}
        for indices in (c for step in steps for c in sampler.plan(step)):
            used = (*indices.context, *indices.targets)
            name = collection.names[indices.scene].split("/")[0]
            found.setdefault(name, []).append(min(max(abs(i - j) for j in used) for i in used))
        return {name: max(values) for name, values in found.items()}

    begin, end = spans(range(20)), spans(range(1000, 1020))
    assert begin["narrow"] <= 4
    assert end["narrow"] <= 4
    assert begin["growing"] <= 5
    assert 5 < end["growing"] <= 24
    assert max(begin["near"], end["near"]) <= 4
    assert begin["wide"] > 15


def test_bounded_views_lie_between_two_that_are_a_gap_apart(base):
    settings = {"selection": "bounded", "gap_start": (5, 8), "gap_end": (20, 25), "warmup_steps": 100}
    collection = open_collection(base / "video", CollectionConfig())
    for count in (2, 4):
        sampler = BatchSampler(SamplerConfig(num_context=count, num_targets=3, **settings), collection)
        for steps, low, high in ((range(3), 4, 9), (range(100, 200), 19, 26)):
            chosen = [sampler.plan(step)[0] for step in steps]
            assert all(low <= c.context[-1] - c.context[0] <= high for c in chosen)
            assert all(c.context[0] < t < c.context[-1] for c in chosen for t in c.targets)
            assert all(len(c.context) == count and len(c.targets) == 3 for c in chosen)
            assert not any(set(c.context) & set(c.targets) for c in chosen)
        assert len({c.context for c in chosen}) > 50
        gaps = {c.context[-1] - c.context[0] for c in chosen}
        assert len(gaps) >= 5
    tight = BatchSampler(SamplerConfig(selection="bounded", gap_start=(1, 1), num_context=4), collection)
    chosen = [tight.plan(step)[0] for step in range(200)]  # the gap gives way to the number of views
    assert all(len(c.context) == 4 and len(c.targets) == 1 for c in chosen)
    short = open_collection(base / "one")  # nine images, one held out
    chosen = [BatchSampler(SamplerConfig(**settings), short).plan(step)[0] for step in (500, 501)]
    assert all(c.context == (0, 8) and len(c.targets) == 4 for c in chosen)
    with pytest.raises(SceneError, match="bounded needs gap_start"):
        BatchSampler(SamplerConfig(selection="bounded"), short)


def test_scenes_are_held_out_by_their_full_name(base):
    collection = mixed(base, {"path": "one"}, {"path": "folder"}, eval_scenes=("folder/scene1",))
    assert [collection.names[i] for i in collection.training_scenes] == ["one/one", "folder/scene0", "folder/scene2"]
    with pytest.raises(SceneError, match=r"'scene1' is not of the form source/scene; .* are one, folder"):
        mixed(base, {"path": "one"}, {"path": "folder"}, eval_scenes=("scene1",))


def test_generated_settings_are_those_of_the_source(base):
    generated = {"num_scenes": 3, "num_evaluation_scenes": 0, "num_textures": 16, "kinds": ["room"], "splat_share": 0}
    collection = mixed(base, {"path": "generated", "generated": generated}, max_size=16)
    assert isinstance(collection, MixtureCollection)
    part = collection._parts[0]
    assert part.config.generated == GeneratedConfig(
        num_scenes=3, num_evaluation_scenes=0, num_textures=16, kinds=("room",), splat_share=0
    )
    assert part.config.max_size == 16


def test_yaml_says_the_same(base):
    pytest.importorskip("yaml")
    (base / "mixture.yaml").write_text("sources:\n  - path: one\n  - {path: folder, weight: 2, baseline: [0.1, 0.2]}\n")
    collection = open_collection(base / "mixture.yaml")
    assert collection.names[0] == "one/one"
    assert collection.weights == (1.0, 2.0)
    (base / "broken.yaml").write_text("sources: [")
    with pytest.raises(SceneError, match=r"broken\.yaml: not a readable mixture"):
        open_collection(base / "broken.yaml")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "needs a list 'sources'"),
        ({"path": "one"}, "needs a list 'sources'"),
        (["one"], r"sources\[0\]: an object with a path is needed"),
        ([{"weight": 1}], r"sources\[0\]\.path: missing"),
        ([{"path": 3}], r"sources\[0\]\.path: must be a text"),
        ([{"path": "one"}, {"path": "one"}], r"sources\[1\]\.name: two sources are called 'one'"),
        ([{"path": "one", "name": "a/b"}], r"sources\[0\]\.name: must not hold a slash"),
        ([{"path": "one", "wieght": 2}], r"sources\[0\]: unknown field 'wieght'; the fields are name, path, weight"),
        ([{"path": "one", "weight": -1}], r"sources\[0\]\.weight: must be a number of at least 0, got -1"),
        ([{"path": "one", "weight": True}], r"sources\[0\]\.weight: must be a number"),
        ([{"path": "one", "weight": 0}], "every weight is 0"),
        ([{"path": "one", "scale": 0}], r"sources\[0\]\.scale: must be a number above 0"),
        ([{"path": "one", "near": 2, "far": 1}], r"sources\[0\]\.far: must be more than near"),
        ([{"path": "one", "gap": [5, 3]}], r"sources\[0\]\.gap: must be \[low, high\]"),
        ([{"path": "one", "gap": [3, 4.5]}], r"sources\[0\]\.gap: must be \[low, high\] .* whole"),
        ([{"path": "one", "gap_end": [3, 5]}], r"sources\[0\]\.gap_end: .* from 'gap', which is not given"),
        ([{"path": "one", "baseline": 1}], r"sources\[0\]\.baseline: must be \[low, high\]"),
        ([{"path": "one", "selection": "best"}], r"sources\[0\]\.selection: must be one of farthest"),
        ([{"path": "one", "evaluate": "no"}], r"sources\[0\]\.evaluate: must be true or false"),
        ([{"path": "one", "evaluate": False}], "no source is left to evaluate"),
        ([{"path": "one", "eval_scenes": "one"}], r"sources\[0\]\.eval_scenes: must be a list"),
        ([{"path": "folder", "eval_scenes": ["no"]}], r"sources\[0\] \(folder\): eval_scenes: there is no scene 'no'"),
        ([{"path": "one", "generated": {}}], r"sources\[0\]\.generated: .* the path is 'one'"),
        ([{"path": "generated", "generated": {"x": 1}}], r"sources\[0\]\.generated: unknown setting 'x'"),
        ([{"path": "generated", "generated": {"seed": "1"}}], r"sources\[0\]\.generated: seed: got '1'"),
        ([{"path": "one", "options": {"a": 1}}], r"sources\[0\]\.options: .* dataparser, which is not given"),
        ([{"path": "nowhere"}], r"sources\[0\] \(nowhere\): .*nowhere: no such file"),
        ([{"path": "one", "dataparser": "scannet-data"}], r"\(one\): the dataparser 'scannet-data' is nerfstudio's"),
        ([{"path": "mixture_in.json"}], r"\(mixture_in\.json\): a mixture within a mixture"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_field(base, sources, message):
    (base / "mixture_in.json").write_text(json.dumps({"sources": [{"path": "one"}]}))
    (base / "bad.json").write_text(json.dumps({"sources": sources}))
    with pytest.raises(SceneError, match=message):
        open_collection(base / "bad.json")
    with pytest.raises(SceneError, match=r"bad\.json"):
        open_collection(base / "bad.json")


def test_other_json_files_are_scenes(base):
    assert open_collection(base / "one" / "transforms.json").names == ("one",)
    (base / "one" / "renamed.json").write_text((base / "one" / "transforms.json").read_text())
    assert open_collection(base / "one" / "renamed.json").scene(0).num_frames == 9
