# SPDX-License-Identifier: Apache-2.0
"""Chunks of scenes: the way there and back, the collection over them, bad files."""

import json
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ns_diff3r.cli.main import main
from ns_diff3r.data import BatchSampler, CollectionConfig, SamplerConfig, SceneError, load_scene, open_collection
from ns_diff3r.data.chunk_conversion import chunks_to_scenes, scenes_to_chunks
from ns_diff3r.data.chunk_scenes import ChunkCollection
from ns_diff3r.data.chunks import ChunkFolder, read_chunk, write_chunks
from tests.conftest import REPOSITORY

ROOM = REPOSITORY / "examples" / "room"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Six scenes with parts of the bundled one."""
    folder = tmp_path_factory.mktemp("scenes")
    content = json.loads((ROOM / "transforms.json").read_text())
    del content["ply_file_path"]
    for number in range(6):
        scene = folder / f"scene {number}"
        scene.mkdir()
        (scene / "images").symlink_to(ROOM / "images")
        frames = content["frames"][number % 3 : number % 3 + 6 + number]
        (scene / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    return folder


@pytest.fixture(scope="module")
def chunks(scenes, tmp_path_factory) -> Path:
    """Two scenes a file, the last scene for test."""
    root = tmp_path_factory.mktemp("chunks")
    collection = open_collection(scenes)
    size = sum(path.stat().st_size for path in (ROOM / "images").iterdir()) * 3 // 4
    assert scenes_to_chunks(collection, root, test=["scene 5"], chunk_bytes=size) == {"train": 5, "test": 1}
    assert len(list((root / "train").glob("*.torch"))) > 1
    return root


def test_a_scene_goes_through_chunks_unchanged(scenes, chunks, tmp_path):
    original = open_collection(scenes)
    streamed = open_collection(chunks)
    assert isinstance(streamed, ChunkCollection)
    assert set(streamed.names) == {f"scene_{number}" for number in range(5)} | {"test/scene_5"}
    chunks_to_scenes(ChunkFolder(chunks / "train"), tmp_path)
    for number in range(5):
        first = original.scene(original.names.index(f"scene {number}"))
        through = streamed.scene(streamed.names.index(f"scene_{number}"))
        back = load_scene(tmp_path / f"scene_{number}")
        for other in (through, back):
            assert other.num_frames == first.num_frames
            for size in ({"max_size": 48}, {"size": (30, 40)}):
                a, b = (scene.views(range(first.num_frames), **size) for scene in (first, other))
                assert torch.equal(a.images, b.images)
                torch.testing.assert_close(a.cameras.viewmats, b.cameras.viewmats, rtol=0, atol=1e-5)
                torch.testing.assert_close(a.cameras.Ks, b.cameras.Ks, rtol=1e-6, atol=1e-4)


def test_the_format_is_the_one_of_the_papers(chunks):
    content = torch.load(chunks / "train" / "000000.torch", weights_only=True)
    example = content[0]
    assert set(example) == {"key", "url", "timestamps", "cameras", "images"}
    assert example["cameras"].dtype == torch.float32
    assert example["images"][0].dtype == torch.uint8
    scene = load_scene(ROOM)
    frame, row = scene.frames[0], example["cameras"][0].double().numpy()
    k = frame.intrinsics
    expected = [k.fx / k.width, k.fy / k.height, k.cx / k.width, k.cy / k.height, 0, 0]
    np.testing.assert_allclose(row[:6], expected, rtol=1e-6)
    world_to_camera = np.vstack([row[6:].reshape(3, 4), [0, 0, 0, 1]])
    point = world_to_camera @ np.append(frame.camera_to_world[:3, 3], 1.0)
    np.testing.assert_allclose(point[:3], 0, atol=1e-5)  # the camera's centre is its origin
    ahead = world_to_camera @ np.append(frame.camera_to_world[:3, 3] - frame.camera_to_world[:3, 2], 1.0)
    np.testing.assert_allclose(ahead[:3], [0, 0, 1], atol=1e-5)  # and what lies ahead has positive z
    assert json.loads((chunks / "train" / "index.json").read_text())[example["key"]] == "000000.torch"


def test_splits_and_names(chunks):
    collection = open_collection(chunks, CollectionConfig(max_size=48))
    assert [collection.names[i] for i in collection.evaluation_scenes] == ["test/scene_5"]
    assert len(collection.training_scenes) == 5
    alone = open_collection(chunks / "train", CollectionConfig(max_size=48, eval_scenes=("scene_2",)))
    assert [alone.names[i] for i in alone.evaluation_scenes] == ["scene_2"]
    assert len(alone.training_scenes) == 4
    with pytest.raises(SceneError, match="no scene 'x'"):
        open_collection(chunks, CollectionConfig(eval_scenes=("x",)))


def test_training_goes_chunk_by_chunk_and_every_scene_once(chunks):
    collection = open_collection(chunks, CollectionConfig(max_size=48))
    assert isinstance(collection, ChunkCollection)
    sampler = BatchSampler(SamplerConfig(num_context=2, num_targets=1, seed=3), collection)
    epochs = [[sampler.plan(5 * epoch + step)[0].scene for step in range(5)] for epoch in range(4)]
    folder = ChunkFolder(chunks / "train")
    for epoch in epochs:
        assert sorted(epoch) == sorted(collection.training_scenes)
        visited = [folder.chunk_of[folder.keys.index(collection.names[scene])] for scene in epoch]
        changes = sum(a != b for a, b in pairwise(visited))
        assert changes == len(set(visited)) - 1
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again = BatchSampler(SamplerConfig(num_context=2, num_targets=1, seed=3), open_collection(chunks))
    assert again.plan(13) == sampler.plan(13)  # a run that is continued needs nothing but the step
    ranks = [sampler.plan(2, rank, 2)[0].scene for rank in range(2)]
    assert ranks == [sampler._choose(2, slot, 4 + slot).scene for slot in range(2)]
    batch = sampler.batch(0)[0]
    assert batch.context.images.shape == (2, 36, 48, 3)


def test_what_is_kept_open_is_bounded(chunks, monkeypatch):
    monkeypatch.setattr("ns_diff3r.data.chunks.OPEN_CHUNKS", 1)
    folder = ChunkFolder(chunks / "train")
    for key in folder.keys:
        folder.example(key)
        assert len(folder._open) == 1
    copied = pickle.loads(pickle.dumps(folder))
    assert copied.example(folder.keys[0])["key"] == folder.keys[0]


def test_smaller_images(scenes, tmp_path):
    scenes_to_chunks(open_collection(scenes / "scene 0"), tmp_path, max_size=40)
    scene = open_collection(tmp_path).scene(0)
    original = load_scene(scenes / "scene 0")
    assert max(scene.frames[0].intrinsics.width, scene.frames[0].intrinsics.height) == 40
    a, b = (s.views(range(3), max_size=40) for s in (original, scene))
    assert (a.images - b.images).abs().mean() < 0.02  # encoded anew
    torch.testing.assert_close(a.cameras.Ks, b.cameras.Ks, rtol=1e-5, atol=1e-3)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_keys_of_others_stay_within_the_output(chunks, tmp_path):
    (example, other, *_) = torch.load(chunks / "train" / "000000.torch", weights_only=True)
    example["key"] = "../../out/of it"
    write_chunks(tmp_path / "in" / "chunks", [example])
    assert chunks_to_scenes(ChunkFolder(tmp_path / "in" / "chunks"), tmp_path / "in" / "a" / "scenes") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in" / "a" / "scenes").iterdir()} == {"_.._out_of_it"}
    example["key"] = "out/of/it"
    write_chunks(tmp_path / "two", [example, {**other, "key": "out_of_it"}])
    with pytest.raises(SceneError, match="'out/of/it' and 'out_of_it' would share a folder"):
        chunks_to_scenes(ChunkFolder(tmp_path / "two"), tmp_path / "b")


def test_bad_chunks(chunks, tmp_path):
    whole = (chunks / "train" / "000000.torch").read_bytes()
    path = tmp_path / "000000.torch"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneError, match="not a readable chunk"):
        read_chunk(path)
    torch.save([{"key": "a", "more": Malicious(tmp_path / "was_run")}], path)
    with pytest.raises(SceneError, match="not a readable chunk"):
        read_chunk(path)
    assert not (tmp_path / "was_run").exists()
    torch.save([{"key": "a"}], path)
    with pytest.raises(SceneError, match="not a chunk of scenes"):
        read_chunk(path)
    torch.save([{"key": "a", "cameras": torch.zeros(2, 12), "images": [torch.zeros(3)] * 2}], path)
    with pytest.raises(SceneError, match=r"must be \[2, 18\]"):
        read_chunk(path)
    with pytest.raises(SceneError, match="no such chunk"):
        read_chunk(tmp_path / "other.torch")
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(SceneError, match="not a readable index"):
        open_collection(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"b": "000000.torch"}))
    with pytest.raises(SceneError):
        open_collection(tmp_path).scene(0)
    with pytest.raises(SceneError, match="already"):
        write_chunks(tmp_path, [])


def test_the_command(scenes, tmp_path, capsys):
    assert main(["convert", str(scenes), str(tmp_path / "chunks"), "--test", "scene 1"]) == 0
    assert "5 scenes in" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "chunks"), str(tmp_path / "back"), "--scenes", "scene_1"]) == 0
    assert load_scene(tmp_path / "back" / "test" / "scene_1").num_frames == 7
    assert main(["convert", str(scenes), str(tmp_path / "chunks")]) == 1
    assert "already" in capsys.readouterr().err


def test_a_real_scene_through_chunks(dev_scenes, tmp_path):
    scenes_to_chunks(open_collection(dev_scenes / "lund_door"), tmp_path)
    through, original = open_collection(tmp_path).scene(0), load_scene(dev_scenes / "lund_door")
    a, b = (scene.views(range(3), max_size=96) for scene in (original, through))
    assert torch.equal(a.images, b.images)
    torch.testing.assert_close(a.cameras.viewmats, b.cameras.viewmats, rtol=1e-5, atol=1e-4)


def test_an_evaluation_index_says_what_is_judged(chunks, tmp_path):
    path = tmp_path / "index.json"
    entries = {"scene_5": {"context": [0, 4], "target": [1, 2, 3]}, "scene_4": None, "elsewhere": None}
    path.write_text(json.dumps(entries))
    collection = open_collection(chunks, CollectionConfig(max_size=48))
    sampler = BatchSampler(SamplerConfig(evaluation_index=path), collection)
    (scene,) = collection.evaluation_scenes
    (item,) = sampler.evaluation_items(scene)
    assert (item.context, item.targets, item.held_out) == ((0, 4), (1, 2, 3), True)
    assert sampler.load(item).targets.num_views == 3
    assert sampler.evaluation_items(collection.names.index("scene_4")) == []
    path.write_text(json.dumps({"elsewhere": {"context": [0, 1], "target": [2]}}))
    with pytest.raises(SceneError, match="no scene of the data"):
        BatchSampler(SamplerConfig(evaluation_index=path), collection)
    for wrong in ({"scene_5": {"context": [0], "target": "all"}}, {"scene_5": 3}, {"scene_5": {"context": [-1]}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(SceneError, match="scene_5"):
            BatchSampler(SamplerConfig(evaluation_index=path), collection)
