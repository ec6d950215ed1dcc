# SPDX-License-Identifier: Apache-2.0
"""Which folders are photographs without poses."""

import shutil

import pytest

from ns_diff3r.data import SceneError, open_collection
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from ns_diff3r.data.unposed import load_unposed, unposed_folders
from tests.data.scene_files import write_scene


def test_a_folder_is_unposed_where_nothing_says_where_photographs_were_taken(tmp_path):
    scene = write_scene(tmp_path / "scene", num_frames=4)
    assert not unposed_folders(scene)
    assert not unposed_folders(tmp_path)
    assert not unposed_folders(scene / "transforms.json")
    assert not unposed_folders(tmp_path / "nowhere")
    photographs = tmp_path / "photographs"
    shutil.copytree(scene / "images", photographs)
    assert unposed_folders(photographs) == {".": photographs}
    with_subfolder = tmp_path / "with_subfolder"
    shutil.copytree(scene / "images", with_subfolder / "images")
    assert unposed_folders(with_subfolder) == {".": with_subfolder}

    (photographs / "transforms_train.json").write_text("{}")  # of another format; its error says so
    assert not unposed_folders(photographs)
    stray = tmp_path / "stray"  # a folder of scenes with a picture beside them
    shutil.copytree(scene, stray / "a")
    shutil.copy(scene / "images" / "0.png", stray)
    assert not unposed_folders(stray)
    scenes_to_chunks(open_collection(scene), tmp_path / "chunks")
    shutil.copy(scene / "images" / "0.png", tmp_path / "chunks")
    assert not unposed_folders(tmp_path / "chunks")


def test_folders_of_photographs_below_a_folder(tmp_path):
    scene = write_scene(tmp_path / "scene", num_frames=2)
    root = tmp_path / "root"
    for name in ("a/images", "a/images_2", "b/c", "hidden/.cache"):
        shutil.copytree(scene / "images", root / name)
    assert unposed_folders(root) == {"a": root / "a", "b/c": root / "b" / "c"}
    (root / "b" / "c" / "transforms_train.json").write_text("{}")
    assert unposed_folders(root) == {"a": root / "a"}
    shutil.copytree(scene, root / "posed")
    assert unposed_folders(root) == {}


def test_one_photograph_is_no_scene(tmp_path):
    scene, alone = write_scene(tmp_path / "scene", num_frames=2), tmp_path / "alone"
    alone.mkdir()
    shutil.copy(scene / "images" / "0.png", alone)
    with pytest.raises(SceneError, match=r"only 0\.png .* at least two"):
        load_unposed(alone, 64, 8)
