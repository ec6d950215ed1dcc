# SPDX-License-Identifier: Apache-2.0
"""transforms.json as instant-ngp and Blender scripts write it: angles for focal lengths, names without a suffix."""

import json
import math

import pytest
import torch

from ns_diff3r.data import SceneError, SceneWarning, load_scene
from tests.data.textured_plane import camera, largest_error, write_plane_scene

K = camera(0, 0)[1].Ks[0]
ANGLES = {axis: 2 * math.atan(0.5 * size / K[i, i].item()) for i, (axis, size) in enumerate((("x", 60), ("y", 40)))}


def rewrite(folder, remove=(), names=None, **fields):
    content = json.loads((folder / "transforms.json").read_text())
    content = {name: value for name, value in content.items() if name not in remove} | fields
    for frame in content["frames"]:
        frame["file_path"] = names(frame["file_path"]) if names else frame["file_path"]
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_angles_for_focal_lengths(tmp_path):
    folder = rewrite(
        write_plane_scene(tmp_path / "scene"),
        remove=("fl_x", "fl_y", "w", "h", "camera_model"),
        camera_angle_x=ANGLES["x"],
        camera_angle_y=ANGLES["y"],
        aabb_scale=16,
        names=lambda name: "./" + name.removesuffix(".png"),
    )
    scene = load_scene(folder)
    assert scene.frames[0].image_path == folder / "images" / "0.png"
    views = scene.views([0, 1, 2], dtype=torch.float64)
    torch.testing.assert_close(views.cameras.Ks[0], K)
    assert largest_error(views) < 0.003


def test_one_angle_is_that_of_square_pixels(tmp_path):
    folder = rewrite(write_plane_scene(tmp_path / "scene"), remove=("fl_x", "fl_y"), camera_angle_x=ANGLES["x"])
    matrix = load_scene(folder).views([0], dtype=torch.float64).cameras.Ks[0]
    torch.testing.assert_close(matrix[[0, 1], [0, 1]], K[0, 0].expand(2))


@pytest.mark.parametrize("upright", [False, True])
def test_without_a_size_the_principal_point_tells_which_way_up(tmp_path, upright):
    folder = write_plane_scene(tmp_path / "scene", orientations=(6, 8), upright=upright)
    scene = load_scene(rewrite(folder, remove=("w", "h")))
    assert largest_error(scene.views([0, 1])) < 0.003


def test_masks_are_said_not_to_be_used(tmp_path):
    folder = rewrite(write_plane_scene(tmp_path / "scene"))
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][1]["mask_path"] = "masks/1.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.warns(SceneWarning, match="mask_path"):
        assert load_scene(folder).num_frames == 3


def test_a_focal_length_wins_over_an_angle(tmp_path):
    folder = rewrite(write_plane_scene(tmp_path / "scene"), camera_angle_x=1.0, camera_angle_y=1.0)
    torch.testing.assert_close(load_scene(folder).views([0], dtype=torch.float64).cameras.Ks[0], K)


def test_the_centre_is_the_default_principal_point(tmp_path):
    folder = rewrite(write_plane_scene(tmp_path / "scene"), remove=("cx", "cy", "w", "h"), w=60.0, h=40.0)
    assert load_scene(folder).views([0]).cameras.Ks[0, :2, 2].tolist() == [30, 20]


@pytest.mark.parametrize("names", [lambda name: name.replace("/", "\\"), lambda name: name.replace(".png", "")])
def test_names_as_other_systems_write_them(tmp_path, names):
    assert load_scene(rewrite(write_plane_scene(tmp_path / "scene"), names=names)).num_frames == 3


def test_any_json_file_can_be_a_scene(tmp_path):
    folder = write_plane_scene(tmp_path / "scene")
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    with pytest.raises(SceneError, match=r"no transforms\.json in this folder, but transforms_train\.json"):
        load_scene(folder)
    assert load_scene(folder / "transforms_train.json").num_frames == 3
