# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ns_diff3r.data import (
    CollectionConfig,
    ImageCache,
    SceneCollection,
    SceneError,
    SceneWarning,
    SplitConfig,
    load_scene,
    open_collection,
)
from tests.data.scene_files import HEIGHT, WIDTH, write_scene


@pytest.fixture
def folder(tmp_path):
    for name, count in (("beta", 9), ("alpha", 3), ("deep/gamma", 2)):
        write_scene(tmp_path / "scenes" / name, num_frames=count)
    return tmp_path / "scenes"


def test_scenes_of_a_folder(folder):
    collection = open_collection(folder)
    assert collection.names == ("alpha", "beta", "deep/gamma")
    assert collection.num_scenes == 3
    assert [collection.scene(i).num_frames for i in range(3)] == [3, 9, 2]
    assert [collection.evaluation_indices(i) for i in range(3)] == [(1,), (1,), ()]
    assert collection.training_indices(2) == (0, 1)
    assert collection.training_scenes == collection.evaluation_scenes == (0, 1, 2)
    views = collection.views(1, [4, 2])
    torch.testing.assert_close(views.images, load_scene(folder / "beta").views([4, 2]).images)
    assert views.near is not None
    assert views.far is not None
    assert collection.cameras(1, [4, 2]).width == WIDTH


@pytest.mark.parametrize("path", ["beta", "beta/transforms.json"])
def test_one_scene(folder, path):
    collection = open_collection(folder / path)
    assert collection.names == ("beta",)
    assert collection.training_indices(0) == (0, 2, 3, 4, 5, 6, 7, 8)


def test_size_and_split_are_those_of_the_collection(folder):
    config = CollectionConfig(image_size=(4, 4), split=SplitConfig(every=2, first=0))
    collection = open_collection(folder, config)
    assert collection.views(0, [0]).images.shape == (1, 4, 4, 3)
    assert collection.evaluation_indices(1) == (0, 2, 4, 6, 8)
    assert open_collection(folder, CollectionConfig(max_size=6)).views(1, [0]).images.shape == (1, 4, 6, 3)


def test_whole_scenes_are_held_out_by_name(folder):
    collection = open_collection(folder, CollectionConfig(eval_scenes=("deep/gamma",)))
    assert collection.training_scenes == (0, 1)
    assert collection.evaluation_scenes == (2,)
    with pytest.raises(SceneError, match="no scene 'delta'; the scenes are alpha, beta, deep/gamma"):
        open_collection(folder, CollectionConfig(eval_scenes=("beta", "delta")))
    with pytest.raises(SceneError, match="all 3 scenes are held out"):
        open_collection(folder, CollectionConfig(eval_scenes=("alpha", "beta", "deep/gamma")))


def break_scene(folder, case):
    file = folder / "transforms.json"
    if case == "json":
        file.write_text("{")
    elif case == "one image":
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "frames": content["frames"][:1]}))
    elif case == "no poses":
        file.unlink()
        return "photographs, but no camera poses"
    elif case == "small":
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "w": 6, "h": 4}))
        for image in (folder / "images").iterdir():
            Image.new("RGB", (6, 4)).save(image)
        return r"0\.png: 6x4 is smaller than the 8x8 asked for"
    return {"json": "not readable as JSON", "one image": "1 of 1 photographs can be used, at least 2"}[case]


@pytest.mark.parametrize("case", ["json", "one image", "no poses", "small"])
def test_an_unusable_scene_is_left_out_and_named(folder, case):
    message = break_scene(folder / "alpha", case)
    config = CollectionConfig(image_size=(8, 8) if case == "small" else None)
    with pytest.warns(SceneWarning, match=f"scene left out: .*alpha.*{message}"):
        collection = open_collection(folder, config)
    assert collection.names == ("beta", "deep/gamma")
    for other in ("beta", "deep/gamma"):
        (folder / other / "transforms.json").write_text("{")
    with pytest.raises(SceneError, match=f"none of the 3 scenes can be used: .*alpha.*{message}"):
        open_collection(folder, config)
    with pytest.raises(SceneError, match=f"alpha.*{message}"):
        open_collection(folder / "alpha", config)


def test_what_is_no_collection(tmp_path):
    with pytest.raises(SceneError, match="nowhere: no such file or folder"):
        open_collection(tmp_path / "nowhere")
    with pytest.raises(SceneError, match="no scene found in this folder"):
        open_collection(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "photos" / "a.jpg")
    with pytest.raises(SceneError, match=r"the only scene cannot be used: .*photos: photographs, but no camera poses"):
        open_collection(tmp_path)
    with pytest.raises(SceneError, match="at least one scene"):
        SceneCollection([])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_size": (4, 4), "max_size": 4}, "image_size or max_size, not both"),
        ({"near": 0.0}, "0 < near < far"),
        ({"near": 2.0, "far": 1.0}, "0 < near < far"),
        ({"far": -1.0}, "0 < near < far"),
        ({"near": 1e6}, "beta: the near or far asked for contradicts"),
        ({"max_size": 0}, "max_size must be positive"),
        ({"image_size": (0, 4)}, "a size must be positive"),
        ({"split": SplitConfig(every=1)}, "every must be at least 2"),
        ({"cache_megabytes": -1}, "cache_megabytes must not be negative"),
    ],
)
def test_settings_that_make_no_sense(folder, config, message):
    with pytest.raises(SceneError, match=message):
        open_collection(folder / "beta", CollectionConfig(**config))


def test_a_depth_range_can_be_given(folder):
    views = open_collection(folder / "beta", CollectionConfig(near=0.5, far=20.0)).views(0, [0, 3])
    assert views.near is not None
    assert views.far is not None
    assert views.near.tolist() == [0.5, 0.5]
    assert views.far.tolist() == [20.0, 20.0]
    plain = open_collection(folder / "beta").views(0, [0, 3])
    views = open_collection(folder / "beta", CollectionConfig(far=20.0)).views(0, [0, 3])
    torch.testing.assert_close(views.near, plain.near)


def test_views_hold_sparse_points_where_they_are_wanted_and_there():
    room = Path(__file__).parents[2] / "examples" / "room"
    assert open_collection(room).views(0, [0, 3]).points is None
    collection = open_collection(room, CollectionConfig(sparse_points=True, near=0.5))
    views, cloud = collection.views(0, [0, 3]), collection.scene(0).points
    assert views.points is not None
    assert cloud is not None
    torch.testing.assert_close(views.points.positions, torch.from_numpy(cloud.points).float())
    torch.testing.assert_close(views.points.colors, torch.from_numpy(cloud.colors).float())
    pointless = replace(load_scene(room), points=None)
    without = SceneCollection.from_scenes([pointless], CollectionConfig(sparse_points=True))
    assert without.views(0, [0, 3]).points is None


def test_scenes_at_hand_get_a_name_each(folder):
    scenes = [load_scene(folder / name) for name in ("alpha", "beta", "alpha")]
    assert SceneCollection.from_scenes(scenes).names == ("alpha", "beta", "alpha-2")
    assert SceneCollection.from_scenes(scenes, names=["x", "y", "z"]).names == ("x", "y", "z")


def test_images_are_read_once_and_not_before(folder):
    collection = open_collection(folder)
    for image in (folder / "beta" / "images").iterdir():
        if image.name not in ("3.png", "5.png"):
            image.unlink()
    first = collection.views(1, [3, 5])
    for image in (folder / "beta" / "images").iterdir():
        image.unlink()
    torch.testing.assert_close(collection.views(1, [5, 3]).images, first.images.flip(0), rtol=0, atol=0)


def test_the_cache_holds_what_fits_and_changes_nothing(folder):
    size = WIDTH * HEIGHT * 3 * 4
    images = {i: torch.full((HEIGHT, WIDTH, 3), float(i)) for i in range(4)}
    reads = []

    def get(cache, key):
        return cache.get(key, lambda: reads.append(key) or images[key])

    cache = ImageCache(2 * size)
    for key in (0, 1, 0, 2, 0, 1):  # 2 displaces 1, which was used longest ago, and 1 then 2
        assert get(cache, key) is images[key]
    assert reads == [0, 1, 2, 1]
    assert len(cache) == 2
    assert cache.num_bytes == 2 * size
    small, reads = ImageCache(size - 1), []
    assert get(small, 3) is get(small, 3)
    assert reads == [3, 3]
    assert (len(small), small.num_bytes) == (0, 0)

    mixed = ImageCache(size)
    get(mixed, 0)
    mixed.get("large", lambda: torch.zeros(2 * HEIGHT, WIDTH, 3))
    assert len(mixed) == 1  # what is too large displaces nothing

    kept, read = (open_collection(folder, CollectionConfig(cache_megabytes=m, max_size=7)) for m in (1, 0))
    for _ in range(2):
        torch.testing.assert_close(kept.views(1, [0, 4]).images, read.views(1, [0, 4]).images, rtol=0, atol=0)


def test_real_scenes(dev_scenes):
    collection = open_collection(dev_scenes, CollectionConfig(max_size=64, eval_scenes=("fox",)))
    assert collection.num_scenes == 15
    assert collection.names[3] == "fox"
    assert len(collection.training_scenes) == 14
    for i in range(collection.num_scenes):
        frames = (*collection.training_indices(i)[:2], *collection.evaluation_indices(i)[:1])
        views = collection.views(i, frames)
        assert max(views.cameras.width, views.cameras.height) == 64
        assert views.near is not None
        assert views.far is not None
        assert (views.near < views.far).all()
