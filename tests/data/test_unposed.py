# SPDX-License-Identifier: Apache-2.0
"""Which folders are photographs without poses."""

import shutil

from ns_diff3r.data import open_collection
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from ns_diff3r.data.unposed import is_unposed
from tests.data.scene_files import write_scene


def test_a_folder_is_unposed_where_nothing_says_where_photographs_were_taken(tmp_path):
    scene = write_scene(tmp_path / "scene", num_frames=4)
    assert not is_unposed(scene)
    assert not is_unposed(tmp_path)
    assert not is_unposed(scene / "transforms.json")
    assert not is_unposed(tmp_path / "nowhere")
    photographs = tmp_path / "photographs"
    shutil.copytree(scene / "images", photographs)
    assert is_unposed(photographs)
    with_subfolder = tmp_path / "with_subfolder"
    shutil.copytree(scene / "images", with_subfolder / "images")
    assert is_unposed(with_subfolder)

    (photographs / "transforms_train.json").write_text("{}")  # of another format; its error says so
    assert not is_unposed(photographs)
    stray = tmp_path / "stray"  # a folder of scenes with a picture beside them
    shutil.copytree(scene, stray / "a")
    shutil.copy(scene / "images" / "0.png", stray)
    assert not is_unposed(stray)
    scenes_to_chunks(open_collection(scene), tmp_path / "chunks")
    shutil.copy(scene / "images" / "0.png", tmp_path / "chunks")
    assert not is_unposed(tmp_path / "chunks")
