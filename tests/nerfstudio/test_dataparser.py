# SPDX-License-Identifier: Apache-2.0
"""Our dataparser, and scenes from nerfstudio's own."""

import json
import shutil
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras  # noqa: E402
from nerfstudio.cameras.cameras import CameraType  # noqa: E402
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs  # noqa: E402
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig  # noqa: E402
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig  # noqa: E402
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig  # noqa: E402

from ns_diff3r import render  # noqa: E402
from ns_diff3r.data import SceneError, gaussians_from_points, load_scene  # noqa: E402
from ns_diff3r.dataparser import Diff3RDataParserConfig, list_scene  # noqa: E402
from ns_diff3r.nerfstudio_cameras import to_cameras  # noqa: E402
from ns_diff3r.nerfstudio_scenes import scene_from_dataparser  # noqa: E402
from ns_diff3r.splats.rotations import rotations_to_quats  # noqa: E402
from tests.nerfstudio.conftest import ROOM, scene_of  # noqa: E402


def parser(data: Path = ROOM, **settings):
    return Diff3RDataParserConfig(data=data, **settings).setup()


def test_placement_is_nerfstudios():
    """The same transform and scale as nerfstudio's own dataparser computes for the same file."""
    theirs = NerfstudioDataParserConfig(data=ROOM, eval_mode="all", load_3D_points=False, downscale_factor=1).setup()
    expected = theirs.get_dataparser_outputs("train")
    placement = parser().placement(load_scene(ROOM))
    torch.testing.assert_close(placement.transform, expected.dataparser_transform, atol=1e-5, rtol=0)
    assert placement.scale == pytest.approx(expected.dataparser_scale, rel=1e-5)
    ours = list_scene(parser().open(), 0, tuple(range(12)), placement)
    order = [expected.image_filenames.index(file) for file in ours.image_filenames]
    poses = expected.cameras.camera_to_worlds[order]
    torch.testing.assert_close(ours.cameras.camera_to_worlds, poses, atol=1e-5, rtol=0)


def test_a_scene_looks_the_same_in_both_worlds():
    scene = load_scene(ROOM)
    collection = parser().open()
    placement = parser().placement(scene)
    gaussians = gaussians_from_points(scene.points, max_gaussians=500)
    listed = list_scene(collection, 0, (3,), placement)
    here = render(gaussians, scene.cameras([3]))
    there = render(placement.similarity.apply_gaussians(gaussians), to_cameras(listed.cameras))
    torch.testing.assert_close(there.rgb, here.rgb, atol=2e-3, rtol=0)
    assert (there.rgb - here.rgb).abs().mean() < 1e-5
    torch.testing.assert_close(there.depth / placement.scale, here.depth, atol=1e-2, rtol=1e-2)


def test_splits_are_ours_and_may_be_empty(tmp_path):
    train, test = (parser().get_dataparser_outputs(split) for split in ("train", "test"))
    names = [[file.name for file in outputs.image_filenames] for outputs in (train, test)]
    assert names[1] == ["01.jpg", "09.jpg"]
    assert not set(names[0]) & set(names[1])
    assert len(names[0]) == 10
    two = scene_of(2, tmp_path / "two")
    assert len(parser(two).get_dataparser_outputs("test").image_filenames) == 0
    assert len(parser(two).get_dataparser_outputs("test").cameras) == 0


def test_scene_to_begin_with(tmp_path):
    for name in ("a", "b"):
        scene_of(3, tmp_path / name)
    chosen = parser(tmp_path, scene="b")
    assert chosen.first_scene(chosen.open()) == 1
    unknown = parser(tmp_path, scene="c")
    with pytest.raises(SceneError, match="no 'c'; the scenes are a, b"):
        unknown.first_scene(chosen.open())


def test_no_data_is_named():
    with pytest.raises(SceneError, match="--data"):
        parser(Path()).open()


def test_what_was_applied_before_is_recorded(tmp_path):
    """nerfstudio's file maps from the poses before ns-process-data, as its own dataparser has it."""
    folder = scene_of(3, tmp_path / "scene")
    content = json.loads((folder / "transforms.json").read_text())
    content["applied_transform"] = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]]
    (folder / "transforms.json").write_text(json.dumps(content))
    theirs = NerfstudioDataParserConfig(data=folder, eval_mode="all", load_3D_points=False, downscale_factor=1).setup()
    expected = theirs.get_dataparser_outputs("train").dataparser_transform
    placement = parser(folder).placement(load_scene(folder))
    torch.testing.assert_close(placement.transform, expected, atol=1e-5, rtol=0)


# --- other dataparsers ---


def test_a_scene_of_nerfstudios_dataparser_has_all_images_and_its_world():
    theirs = NerfstudioDataParserConfig(data=ROOM, downscale_factor=1).setup()
    scene, placement = scene_from_dataparser(theirs)
    assert [frame.image_path.name for frame in scene.frames] == [f"{i:02d}.jpg" for i in range(12)]
    outputs = theirs.get_dataparser_outputs("train")
    index = [frame.image_path for frame in scene.frames].index(outputs.image_filenames[2])
    torch.testing.assert_close(
        torch.from_numpy(scene.frames[index].camera_to_world[:3]).float(), outputs.cameras.camera_to_worlds[2]
    )
    intrinsics = [astuple(each.frames[0].intrinsics) for each in (scene, load_scene(ROOM))]
    np.testing.assert_allclose(*intrinsics, rtol=1e-6)
    assert not placement.similarity.rotates
    assert placement.scale == outputs.dataparser_scale
    torch.testing.assert_close(placement.transform, outputs.dataparser_transform)


@pytest.mark.parametrize("count", [9, 12])
def test_instant_ngp_data(count, tmp_path):
    """Of 9 images it lists none for evaluation; of 12 one, whose camera it garbles, unless it lists all at once."""
    folder = scene_of(count, tmp_path / "scene")
    theirs = InstantNGPDataParserConfig(data=folder).setup()
    scene, _ = scene_from_dataparser(theirs)
    assert scene.num_frames == count
    ours = load_scene(folder)
    for a, b in zip(scene.frames, ours.frames, strict=True):
        np.testing.assert_allclose(a.camera_to_world[:3, :3], b.camera_to_world[:3, :3], atol=1e-5)
        np.testing.assert_allclose(astuple(a.intrinsics), astuple(b.intrinsics), rtol=1e-5)


def write_colmap_model(folder: Path, count: int) -> None:
    """The first images of the room as a COLMAP text model, OPENCV cameras with a little distortion."""
    model = folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (folder / "images").mkdir()
    scene = load_scene(ROOM)
    k = scene.frames[0].intrinsics
    parameters = f"{k.fx} {k.fy} {k.cx} {k.cy} 0.01 0 0 0"
    (model / "cameras.txt").write_text(f"1 OPENCV {k.width} {k.height} {parameters}\n")
    lines = []
    for index, viewmat in enumerate(scene.cameras(range(count), dtype=torch.float64).viewmats):
        name = scene.frames[index].image_path.name
        shutil.copy(scene.frames[index].image_path, folder / "images" / name)
        quat = rotations_to_quats(viewmat[:3, :3]).tolist()
        lines += [" ".join(map(str, [index + 1, *quat, *viewmat[:3, 3].tolist(), 1, name])), ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    assert scene.points is not None
    points = [f"{i + 1} {x} {y} {z} 51 102 153 1.0" for i, (x, y, z) in enumerate(scene.points.points[:200])]
    (model / "points3D.txt").write_text("\n".join(points) + "\n")


def test_nerfstudios_colmap_dataparser(tmp_path):
    write_colmap_model(tmp_path / "scene", 10)
    theirs = ColmapDataParserConfig(data=tmp_path / "scene", downscale_factor=1).setup()
    scene, placement = scene_from_dataparser(theirs)
    assert scene.num_frames == 10
    assert scene.frames[0].development.lens is not None
    assert scene.points is not None
    np.testing.assert_allclose(scene.points.colors[0], [0.2, 0.4, 0.6], atol=1e-6)
    # The same cameras and points up to a similarity.
    ours = load_scene(ROOM)
    assert ours.points is not None
    centers = [np.stack([f.camera_to_world[:3, 3] for f in s.frames[:10]]) for s in (scene, ours)]
    for (a, b), (c, d) in zip(*[[(p[0], p[i]) for i in range(1, 10)] for p in centers], strict=True):
        assert np.linalg.norm(a - b) == pytest.approx(placement.scale * np.linalg.norm(c - d), rel=1e-4)
    seen = [scene.cameras([4]), ours.cameras([4])]
    points = [torch.from_numpy(p).float() for p in (scene.points.points, ours.points.points[:200])]
    local = [p @ c.viewmats[0, :3, :3].T + c.viewmats[0, :3, 3] for p, c in zip(points, seen, strict=True)]
    torch.testing.assert_close(local[0], placement.scale * local[1], atol=1e-4, rtol=0)


class Listing:
    """A dataparser that lists what it is given, in the split "train" alone."""

    def __init__(self, outputs: DataparserOutputs, data: Path = ROOM) -> None:
        self.outputs = outputs
        self.config = Diff3RDataParserConfig(data=data)

    def get_dataparser_outputs(self, split: str) -> DataparserOutputs:
        if split != "train":
            raise FileNotFoundError(split)
        return self.outputs


def outputs_of_room(**changes) -> DataparserOutputs:
    listed = list_scene(parser().open(), 0, (0, 1, 2), parser().placement(load_scene(ROOM)))
    cameras = listed.cameras
    fields = {name: getattr(cameras, name) for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height")}
    cameras = NerfstudioCameras(**fields, **{"camera_type": CameraType.PERSPECTIVE, **changes})
    return DataparserOutputs(listed.image_filenames, cameras)


def test_distortion_is_undone():
    bent = scene_from_dataparser(Listing(outputs_of_room(distortion_params=torch.tensor([[0.1, 0, 0, 0, 0, 0]] * 3))))[
        0
    ]
    straight = scene_from_dataparser(Listing(outputs_of_room()))[0]
    assert bent.frames[0].development.lens is not None
    assert straight.frames[0].development.lens is None
    assert bent.frames[0].intrinsics != straight.frames[0].intrinsics
    assert bent.frames[0].development.lens.distortion.k1 == pytest.approx(0.1)
    params = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.01, 0.02]] * 3) * 0.1
    lens = scene_from_dataparser(Listing(outputs_of_room(distortion_params=params)))[0].frames[0].development.lens
    values = [getattr(lens.distortion, name) for name in ("k1", "k2", "k3", "k4", "p1", "p2")]
    np.testing.assert_allclose(values, params[0].numpy(), rtol=1e-6)


def test_other_camera_types_are_one_clear_error():
    outputs = outputs_of_room(camera_type=CameraType.EQUIRECTANGULAR)
    with pytest.raises(SceneError, match=r"00\.jpg was taken by a equirectangular camera; only perspective"):
        scene_from_dataparser(Listing(outputs))


def test_the_background_behind_transparent_images_is_the_dataparsers():
    outputs = outputs_of_room()
    assert scene_from_dataparser(Listing(outputs))[0].frames[0].development.background == (1.0, 1.0, 1.0)
    outputs.alpha_color = torch.tensor([0.0, 0.5, 0.25])
    assert scene_from_dataparser(Listing(outputs))[0].frames[0].development.background == (0.0, 0.5, 0.25)


def test_masks_are_ignored_with_a_note(capsys):
    outputs = outputs_of_room()
    outputs.mask_filenames = outputs.image_filenames
    scene, _ = scene_from_dataparser(Listing(outputs))
    assert scene.num_frames == 3
    assert "masks are ignored" in capsys.readouterr().out


def test_points_of_the_dataparser_give_the_depth_range():
    outputs = outputs_of_room()
    points = load_scene(ROOM).points
    assert points is not None
    moved = parser().placement(load_scene(ROOM)).similarity.apply_points(torch.from_numpy(points.points))
    outputs.metadata = {
        "points3D_xyz": moved.float(),
        "points3D_rgb": torch.full((len(moved), 3), 51, dtype=torch.uint8),
    }
    scene, _ = scene_from_dataparser(Listing(outputs))
    assert scene.points is not None
    np.testing.assert_allclose(scene.points.colors, 0.2)
    scale = parser().placement(load_scene(ROOM)).scale
    np.testing.assert_allclose(scene.depth_range[0], load_scene(ROOM).depth_range[0][:3] * scale, rtol=1e-3)


def test_a_missing_image_is_left_out_and_too_few_are_an_error(tmp_path):
    folder = scene_of(3, tmp_path / "scene")
    (folder / "images" / "01.jpg").unlink()
    shutil.copy(folder / "images" / "00.jpg", folder / "images" / "01.jpg.bak")
    listing = outputs_of_room()
    listing.image_filenames = [folder / "images" / f"{i:02d}.jpg" for i in range(3)]
    with pytest.warns(UserWarning, match=r"01\.jpg: no such image"):
        scene, _ = scene_from_dataparser(Listing(listing, folder))
    assert scene.num_frames == 2
    (folder / "images" / "02.jpg").unlink()
    with pytest.raises(SceneError, match="1 of 3 photographs can be used"):
        scene_from_dataparser(Listing(listing, folder))
