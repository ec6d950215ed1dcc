# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ns_diff3r.data import ImageError, Intrinsics, SceneError, SceneWarning, load_scene
from tests.data.scene_files import HEIGHT, WIDTH, pose, write_scene


def project(views, points):
    """Pixel of world points in each view, the textbook way."""
    local = points @ views.cameras.viewmats[:, :3, :3].transpose(1, 2) + views.cameras.viewmats[:, None, :3, 3]
    image = local @ views.cameras.Ks.transpose(1, 2)
    return image[..., :2] / image[..., 2:]


def test_folder_and_file_give_the_same_scene(tmp_path):
    folder = write_scene(tmp_path / "scene")
    by_folder, by_file = load_scene(folder), load_scene(str(folder / "transforms.json"))
    assert by_folder.num_frames == by_file.num_frames == 3
    assert by_folder.frames[1].image_path == by_file.frames[1].image_path == folder / "images" / "1.png"
    assert by_folder.points is not None
    np.testing.assert_allclose(by_folder.points.colors[0], [1, 128 / 255, 0])
    assert by_folder.points.points.shape == (8, 3)


def test_views_hold_the_pixels_and_cameras_of_the_file(tmp_path):
    folder = write_scene(tmp_path / "scene")
    views = load_scene(folder).views([2, 0])
    expected = np.asarray(Image.open(folder / "images" / "2.png"), dtype=np.float32) / 255
    torch.testing.assert_close(views.images[0], torch.from_numpy(expected))
    assert (views.cameras.width, views.cameras.height) == (WIDTH, HEIGHT)
    torch.testing.assert_close(views.cameras.Ks[0].diagonal(), torch.tensor([10.0, 11.0, 1.0]))
    torch.testing.assert_close(views.cameras.centers[0], torch.tensor([0.4, 0, 0]))
    # OpenGL looks along -z with y up: a point ahead and above lands above the principal point.
    pixel = project(load_scene(folder).views([0], dtype=torch.float64), torch.tensor([[0.0, 1.0, -10.0]]).double())
    torch.testing.assert_close(pixel[0, 0], torch.tensor([6.5, 4.25 - 1.1]).double())


def test_intrinsics_per_frame_win_over_shared_ones(tmp_path):
    folder = write_scene(tmp_path / "scene", frame_fields={"fl_x": 20.0, "cx": 5.0})
    Ks = load_scene(folder).views([0, 1]).cameras.Ks
    assert Ks[0, 0, 0] == 20.0
    assert Ks[0, 0, 2] == 5.0
    assert Ks[1, 0, 0] == 10.0
    assert Ks[1, 0, 2] == 6.5


def test_what_a_file_may_leave_out(tmp_path):
    folder = write_scene(tmp_path / "scene", fl_y=None, cx=None, cy=None, w=None, h=None, ply_file_path=None)
    scene = load_scene(folder)
    assert scene.points is None
    assert scene.frames[0].intrinsics == Intrinsics(10.0, 10.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)


@pytest.mark.parametrize(("option", "size"), [({"size": (4, 6)}, (4, 6)), ({"max_size": 6}, (4, 6))])
def test_halving_averages_pixels_and_halves_intrinsics(tmp_path, option, size):
    scene = load_scene(write_scene(tmp_path / "scene"))
    full, half = scene.views([0, 1], dtype=torch.float64), scene.views([0, 1], dtype=torch.float64, **option)
    assert (half.cameras.height, half.cameras.width) == size
    expected = full.images.reshape(2, 4, 2, 6, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(half.images, expected, atol=1e-6, rtol=0)
    points = torch.tensor([[0.3, -0.2, -4.0], [-1.0, 0.5, -2.0]]).double()
    torch.testing.assert_close(project(half, points), project(full, points) / 2)


def test_another_aspect_takes_the_centre(tmp_path):
    scene = load_scene(write_scene(tmp_path / "scene"))
    full, square = scene.views([0], dtype=torch.float64), scene.views([0], size=(4, 4), dtype=torch.float64)
    expected = full.images[:, :, 2:10].reshape(1, 4, 2, 4, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(square.images, expected, atol=1e-6, rtol=0)
    points = torch.tensor([[0.3, -0.2, -4.0]]).double()
    torch.testing.assert_close(project(square, points), (project(full, points) - torch.tensor([2.0, 0.0])) / 2)


def test_area_average_keeps_mean_and_gradient_at_any_ratio(tmp_path):
    """A ramp stays a ramp about pixel centres, 12x8 → 9x6 (of steps, so to a twelfth)."""
    folder = write_scene(tmp_path / "scene")
    ramp = np.tile(np.arange(WIDTH, dtype=np.uint8) * 20, (HEIGHT, 1))
    Image.fromarray(ramp).convert("RGB").save(folder / "images" / "0.png")
    view = load_scene(folder).views([0], max_size=9, dtype=torch.float64)
    assert view.images.shape == (1, 6, 9, 3)
    centres = (torch.arange(9) + 0.5) * WIDTH / 9 - 0.5
    torch.testing.assert_close(view.images[0, 3, :, 0] * 255 / 20, centres.double(), atol=0.09, rtol=0)
    torch.testing.assert_close(view.images.mean() * 255 / 20, torch.tensor(5.5).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fl_x": None}, r"frames\[0\] .*fl_x is missing"),
        ({"fl_x": "wide"}, "fl_x must be a finite number"),
        ({"fl_x": -1.0}, "focal lengths must be positive"),
        ({"cx": float("nan")}, "cx must be a finite number"),
        ({"k5": 0.1}, "k5 = 0.1 is not supported"),
        ({"k1": "barrel"}, "k1 must be a finite number"),
        ({"k1": -0.9}, r"0\.png: distortion k1 = -0.9 cannot be undone"),
        ({"k1": 5.0}, r"0\.png: distortion k1 = 5 leaves less than half"),
        ({"distortion_params": [0.1, 0.2]}, "distortion_params must be 6 numbers"),
        ({"distortion_params": [0, 0, 0, 0, None, 0]}, "distortion_params: p1 must be a finite number"),
        ({"w": 12.5}, "whole numbers"),
        ({"camera_model": "OPENCV_FISHEYE"}, "'OPENCV_FISHEYE' is not supported"),
        ({"camera_model": "EQUIRECTANGULAR"}, "'EQUIRECTANGULAR' is not supported"),
        ({"is_fisheye": True}, "is_fisheye"),
        ({"fl_x": None, "camera_angle_x": 4.0}, "camera_angle_x must be an angle"),
        ({"frames": []}, "no frames"),
        ({"frames": [{"transform_matrix": pose(0, (0, 0, 0))}]}, "field file_path"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": [[1, 2], [3, 4]]}]}, "must be a 4x4 matrix"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": [["x"] * 4] * 4}]}, "must be a 4x4 matrix"),
        ({"frames": [{"file_path": "a.png"}]}, "must be a 4x4 matrix"),
        (
            {"frames": [{"file_path": "a.png", "transform_matrix": pose(0, (float("nan"), 0, 0))}]},
            r"0 of 1 .*a\.png.*NaN",
        ),
        ({"frames": [{"file_path": "a.png", "transform_matrix": (2 * np.eye(4)).tolist()}]}, r"a\.png: .*no rotation"),
        ({"ply_file_path": "nothing.ply"}, "nothing.ply: no such point cloud"),
        ({"ply_file_path": "images/0.png"}, "0.png: not a readable point cloud"),
    ],
)
def test_a_bad_field_is_named(tmp_path, fields, message):
    folder = write_scene(tmp_path / "scene", **fields)
    with pytest.raises(SceneError, match=message):
        load_scene(folder)


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"frames": [3]}'])
def test_a_file_that_is_no_scene_is_named(tmp_path, content):
    (tmp_path / "transforms.json").write_text(content)
    with pytest.raises(SceneError, match=r"transforms\.json"):
        load_scene(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(SceneError, match="nowhere: no such file"):
        load_scene(tmp_path / "nowhere")
    with pytest.raises(SceneError, match=r"neither transforms\.json nor a COLMAP model"):
        load_scene(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "images" / "photograph.JPG")
    with pytest.raises(SceneError, match=r"photographs, but no camera poses"):
        load_scene(tmp_path)


def spoil(folder, case):
    """Make one of three photographs unusable; what the message must say of it."""
    first = folder / "images" / "0.png"
    content = json.loads((folder / "transforms.json").read_text())
    if case == "missing":
        first.unlink()
        return r"0\.png: no such image"
    if case == "cut short":
        first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
        return r"0\.png: not a readable image"
    if case == "one bit":
        data = bytearray(first.read_bytes())
        data[len(data) // 2] ^= 1
        first.write_bytes(data)
        return r"0\.png: not a readable image"
    if case == "no image":
        first.write_bytes(b"no image")
        return r"0\.png: not a readable image"
    if case == "16 bit":
        Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint16)).save(first)
        return r"0\.png: I;16 images are not read"
    if case == "another size":
        Image.new("RGB", (5, 5)).save(first)
        return r"0\.png: the image is 5x5, its intrinsics are for 12x8"
    content["frames"][0]["transform_matrix"][1][3] = float("nan")
    (folder / "transforms.json").write_text(json.dumps(content))
    return r"0\.png: its pose .* NaN"


CASES = ("missing", "cut short", "one bit", "no image", "16 bit", "another size", "NaN")


@pytest.mark.parametrize("case", CASES)
def test_an_unusable_photograph_is_left_out_with_a_warning(tmp_path, case):
    folder = write_scene(tmp_path / "scene")
    message = spoil(folder, case)
    with pytest.warns(SceneWarning, match=message):
        scene = load_scene(folder)
    assert [frame.image_path.name for frame in scene.frames] == ["1.png", "2.png"]
    assert scene.views([0, 1]).num_views == 2


@pytest.mark.parametrize("case", CASES)
def test_too_few_usable_photographs_are_an_error(tmp_path, case):
    folder = write_scene(tmp_path / "scene", num_frames=2)
    message = spoil(folder, case)
    with pytest.raises(SceneError, match=f"1 of 2 photographs can be used, at least 2 .*{message}"):
        load_scene(folder, min_frames=2)
    with pytest.warns(SceneWarning, match=message):
        assert load_scene(folder).num_frames == 1


def test_an_image_that_goes_missing_later_is_named(tmp_path):
    folder = write_scene(tmp_path / "scene")
    scene = load_scene(folder)
    (folder / "images" / "1.png").unlink()
    assert scene.views([0, 2]).num_views == 2
    with pytest.raises(ImageError, match=r"1\.png: no such image"):
        scene.views([0, 1])
    Image.new("RGB", (5, 5)).save(folder / "images" / "2.png")
    with pytest.raises(SceneError, match=r"2\.png: the image is 5x5, its intrinsics are for 12x8"):
        scene.views([2])


def test_points_that_are_none_are_left_out(tmp_path):
    folder = write_scene(tmp_path / "scene")
    text = (folder / "sparse_pc.ply").read_text()
    (folder / "sparse_pc.ply").write_text(text.replace("vertex 8", "vertex 9") + "nan 0 -3 1 2 3\n")
    points = load_scene(folder).points
    assert points is not None
    assert len(points.points) == len(points.colors) == 8
    (folder / "sparse_pc.ply").write_text(text[: text.index("-1")].replace("vertex 8", "vertex 1") + "inf 0 0 1 2 3\n")
    with pytest.raises(SceneError, match=r"sparse_pc\.ply: the point cloud holds no finite point"):
        load_scene(folder)


def test_all_cameras_at_one_point(tmp_path):
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": pose(0.1 * i, (5, 6, 7))} for i in range(3)]
    folder = write_scene(tmp_path / "scene", frames=frames)
    with pytest.raises(SceneError, match="all 3 cameras are at one point"):
        load_scene(folder)


def test_requests_that_cannot_be_met(tmp_path):
    folder = write_scene(tmp_path / "scene")
    scene = load_scene(folder)
    with pytest.raises(SceneError, match="no view 3, the scene has 3"):
        scene.views([3])
    with pytest.raises(SceneError, match="no view was asked for"):
        scene.views([])
    with pytest.raises(SceneError, match="not enlarged"):
        scene.views([0], size=(16, 16))
    with pytest.raises(SceneError, match="must be positive"):
        scene.views([0], size=(0, 4))
    with pytest.raises(SceneError, match="must be positive"):
        scene.views([0], max_size=0)
    with pytest.raises(SceneError, match="size or max_size"):
        scene.views([0], size=(4, 4), max_size=4)


def test_mixed_sizes_are_cropped_to_one(tmp_path):
    """The smallest height and width count for all views of the scene, also where only the larger ones are loaded."""
    folder = write_scene(tmp_path / "scene", frame_fields={"w": 6, "h": 10, "cx": 3.0, "cy": 5.0})
    Image.new("RGB", (6, 10)).save(folder / "images" / "0.png")
    scene = load_scene(folder)
    views = scene.views([1, 2], dtype=torch.float64)
    assert views.images.shape == scene.views([0, 1]).images.shape == (2, 8, 6, 3)
    assert scene.view_size() == (8, 6)
    # 12x8 to 6x8 is a crop of the middle; 6x10 to 6x8 as well.
    pixels = np.asarray(Image.open(folder / "images" / "1.png"), dtype=np.float64) / 255
    torch.testing.assert_close(views.images[0], torch.from_numpy(pixels[:, 3:9]), atol=1e-6, rtol=0)
    assert views.cameras.Ks[0, 0, 2] == 6.5 - 3
    assert scene.views([0]).cameras.Ks[0, 1, 2] == 5.0 - 1
    assert scene.views([0, 1], size=(4, 4)).images.shape == (2, 4, 4, 3)
    # Longer side at most 5: 12x8 → 5x3 and 6x10 → 3x5, so 3x3.
    assert scene.views([1], max_size=5).images.shape == (1, 3, 3, 3)


def test_one_thumbnail_among_photographs_is_named(tmp_path):
    folder = write_scene(tmp_path / "scene", frame_fields={"w": 3, "h": 2, "cx": 1.5, "cy": 1.0})
    Image.new("RGB", (3, 2)).save(folder / "images" / "0.png")
    scene = load_scene(folder)
    with pytest.warns(SceneWarning, match=r"cropped to 3x2.*0\.png"):
        assert scene.views([1]).images.shape == (1, 2, 3, 3)


def test_real_scenes_load_and_their_points_lie_in_their_views(dev_scenes):
    """Almost all sparse points of every scene are inside some view, which a wrong axis convention breaks."""
    from ns_diff3r.data import points_in_views

    for folder in sorted(path.parent for path in dev_scenes.glob("*/transforms.json")):
        scene = load_scene(folder)
        names = json.loads((folder / "transforms.json").read_text())["frames"]
        assert scene.num_frames == len(names)
        views = scene.views([0, scene.num_frames // 2, -1], max_size=64)
        assert max(views.cameras.width, views.cameras.height) == 64
        assert scene.points is not None
        inside = points_in_views(scene.points, scene.views(range(scene.num_frames), max_size=8).cameras)
        assert inside.mean() > 0.99, folder.name


def test_cameras_are_those_of_the_views_and_need_no_image(tmp_path):
    folder = write_scene(tmp_path / "scene")
    scene = load_scene(folder)
    views = scene.views([0, 2], max_size=WIDTH // 2)
    for frame in scene.frames:
        frame.image_path.unlink()
    cameras = scene.cameras([0, 2], max_size=WIDTH // 2)
    assert torch.equal(cameras.viewmats, views.cameras.viewmats)
    assert torch.equal(cameras.Ks, views.cameras.Ks)
    assert (cameras.width, cameras.height) == (views.cameras.width, views.cameras.height)
