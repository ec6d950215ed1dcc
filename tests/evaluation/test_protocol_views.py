# SPDX-License-Identifier: Apache-2.0
"""Which views of which scenes a protocol looks at."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from ns_diff3r.data import SceneCollection, SceneError, open_collection
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from ns_diff3r.data.evaluation_index import IndexEntry, read_evaluation_index
from ns_diff3r.data.view_selection import view_distances
from ns_diff3r.evaluation.protocols.settings import PosedProtocol, UnposedProtocol, open_choices
from ns_diff3r.evaluation.protocols.views import choose_views
from tests.data.scene_files import write_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for name, count in {"a": 20, "b": 9, "few": 4}.items():
        write_scene(root / name, num_frames=count)
    return root


@pytest.fixture(scope="module")
def collection(folder) -> SceneCollection:
    return open_collection(folder)


def test_frames_of_the_index_are_taken_as_they_are(collection):
    """In the order of the data, or that of the names."""
    index = {"b": IndexEntry((8, 1), (3, 5)), "a": IndexEntry((2, 17), (4, 9, 11))}
    plan = choose_views(collection, index, 2)
    assert [(s.name, s.context, s.targets) for s in plan.scenes] == [
        ("a", (2, 17), (4, 9, 11)),
        ("b", (1, 8), (3, 5)),
    ]
    assert [s.name for s in choose_views(collection, index, 2, names=["b", "a"]).scenes] == ["b", "a"]
    assert plan.notes == ()
    assert plan.to_index()["a"] == {"context": [2, 17], "target": [4, 9, 11]}


@pytest.mark.parametrize("rule", ["even", "random", "spread"])
def test_views_three_and_four(collection, rule):
    """Between the two of the index, none a target, the same ever after."""
    index = {"a": IndexEntry((2, 17), (7, 12))}
    (scene,) = choose_views(collection, index, 4, rule).scenes
    assert scene == choose_views(collection, index, 4, rule).scenes[0]
    assert len(scene.context) == 4
    assert (scene.context[0], scene.context[-1]) == (2, 17)
    assert all(first < second for first, second in pairwise(scene.context))
    assert not set(scene.context) & set(scene.targets)
    if rule == "even":
        assert scene.context == (2, 6, 11, 17)  # 7 and 12 are targets
    if rule == "spread":
        distances = view_distances(collection.scene(0).frames)
        assert min(distances[i, j] for i in scene.context for j in scene.context if i != j) >= 4 / 19


def test_random_views_differ_between_scenes(collection):
    index = {name: IndexEntry((0, 8), (4,)) for name in ("a", "b")}
    first, second = choose_views(collection, index, 4, "random").scenes
    assert first.context != second.context


def test_of_more_context_views_some_are_taken(collection):
    (scene,) = choose_views(collection, {"a": IndexEntry((0, 3, 6, 9, 12, 15), (1,))}, 4).scenes
    assert scene.context == (0, 6, 9, 15)
    assert scene.context == choose_views(collection, {"a": IndexEntry((0, 6, 9, 15), (1,))}, 4).scenes[0].context


def test_where_the_span_is_too_short_views_come_from_outside(collection):
    (scene,) = choose_views(collection, {"a": IndexEntry((5, 8), (6, 7))}, 4).scenes
    assert scene.context == (4, 5, 8, 9)


def test_without_an_index_the_split_decides(collection):
    nearest = choose_views(collection, None, 2)
    for scene in nearest.scenes:
        (target,) = scene.targets
        assert scene.context == (target - 1, target + 1)
        assert target in (1, 9, 17)
    assert [s.name for s in nearest.scenes] == ["a", "b", "few"]
    covering = choose_views(collection, None, 2, own_views="covering")
    assert [(s.name, s.targets) for s in covering.scenes] == [("a", (1, 9, 17)), ("b", (1,)), ("few", (1,))]
    assert all(len(s.context) == 2 and not set(s.context) & set(s.targets) for s in covering.scenes)
    assert [s.name for s in choose_views(collection, None, 2, names=["few", "a"]).scenes] == ["few", "a"]
    four = choose_views(collection, None, 4)
    assert [s.name for s in four.scenes] == ["a", "b"]
    assert four.notes == ("left out, without 4 context views and a target besides: 'few' (1)",)


def test_scenes_that_the_data_lack_are_said(collection):
    index = {name: IndexEntry((0, 3), (1,)) for name in ("a", "x", "y")}
    plan = choose_views(collection, index, 2)
    assert [s.name for s in plan.scenes] == ["a"]
    assert plan.notes == (
        "2 of the 3 scenes of the evaluation index are not in the data ('x', 'y'): figures are over the others",
    )
    with pytest.raises(SceneError, match=r"scenes that the data lack: 'x', 'y' \(2 of 3\); the data have 'a', 'b'"):
        choose_views(collection, index, 2, whole_index=True)
    with pytest.raises(SceneError, match=r"'x' \(1 of 1\)"):
        choose_views(collection, {"x": IndexEntry((0, 3), (1,))}, 2)
    with pytest.raises(SceneError, match="there is no scene 'z' in the data"):
        choose_views(collection, index, 2, names=["z"])
    with pytest.raises(SceneError, match="none of the scenes asked for is in the evaluation index"):
        choose_views(collection, index, 2, names=["b"])


def test_an_index_whose_targets_are_context_leaves_nothing(collection):
    with pytest.raises(SceneError, match="no scene is left to measure: left out, without 4 context views"):
        choose_views(collection, {"a": IndexEntry((0, 3), (0,))}, 4)


def test_keys_of_chunks_have_no_folder_and_null_entries_are_left_out(collection, tmp_path):
    scenes_to_chunks(collection, tmp_path / "chunks", test=["a", "b"])
    (tmp_path / "index.json").write_text(
        json.dumps({"a": {"context": [0, 5], "target": [2]}, "b": None, "few": {"context": [0, 2], "target": [1]}})
    )
    chunks = open_collection(tmp_path / "chunks")
    plan = choose_views(chunks, read_evaluation_index(tmp_path / "index.json"), 2)
    assert [s.name for s in plan.scenes] == ["few", "a"]
    assert [chunks.names[s.index] for s in plan.scenes] == ["few", "test/a"]
    assert [s.name for s in choose_views(chunks, None, 2).scenes] == ["a", "b"]


def test_choices_that_the_paper_leaves_open_are_listed():
    posed = {name: (value, why) for name, value, why in open_choices(PosedProtocol(near=1.0))}
    assert posed["near"] == ("1.0", "given")
    assert posed["far"][0] == "default"
    assert "100 for chunks" in posed["far"][1]
    assert posed["image_size"][0] == "256x256"
    assert "target_poses" not in posed
    unposed = {name: (value, why) for name, value, why in open_choices(UnposedProtocol())}
    assert unposed["image_size"][0] == "252x252"
    assert unposed["extra_views"][0] == "even"
    assert unposed["target_poses"][0].startswith("100 steps of Adam")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_context": 1}, "num_context >= 2"),
        ({"tto_steps": -1}, "tto_steps >= 0"),
        ({"image_size": (0, 4)}, "image_size must be positive"),
        ({"near": 2.0, "far": 1.0}, "0 < near < far"),
        ({"near": 0.0}, "0 < near < far"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        UnposedProtocol(**settings)
