# SPDX-License-Identifier: Apache-2.0
"""Cameras between nerfstudio's conventions and ours."""

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras  # noqa: E402
from nerfstudio.cameras.cameras import CameraType  # noqa: E402

from ns_diff3r.nerfstudio_cameras import from_cameras, to_cameras  # noqa: E402
from tests.scenes import make_scene  # noqa: E402


def test_there_and_back():
    _, cameras = make_scene(num_views=3, size=(35, 45))
    back = to_cameras(from_cameras(cameras), dtype=torch.float32)
    torch.testing.assert_close(back.viewmats, cameras.viewmats.float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(back.Ks, cameras.Ks.float())
    assert (back.width, back.height) == (45, 35)


def test_pixels_of_points_are_those_of_nerfstudios_rays():
    """A point on the ray that nerfstudio sends through a pixel's centre is projected to that centre."""
    _, ours = make_scene(num_views=2, size=(6, 8))
    theirs = from_cameras(ours)
    for view in range(2):
        rays = theirs.generate_rays(camera_indices=view, keep_shape=True)
        points = (rays.origins + 2.5 * rays.directions).double().reshape(-1, 3)
        local = points @ ours.viewmats[view, :3, :3].T + ours.viewmats[view, :3, 3]
        assert (local[:, 2] > 0).all()
        pixels = (local @ ours.Ks[view].T)[:, :2] / local[:, 2:]
        rows, columns = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(8) + 0.5, indexing="ij")
        expected = torch.stack([columns, rows], dim=-1).reshape(-1, 2).double()
        torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)


def test_no_camera_is_a_list_of_no_cameras():
    _, cameras = make_scene()
    none = from_cameras(cameras[:0])
    assert len(none) == 0
    assert none.shape == (0,)


def test_one_camera_with_and_without_a_batch_dimension():
    _, cameras = make_scene(num_views=2)
    theirs = from_cameras(cameras)
    torch.testing.assert_close(to_cameras(theirs[1]).viewmats, to_cameras(theirs[1:2]).viewmats)


def test_what_cannot_be_drawn_is_named():
    pose = torch.eye(4)[None, :3].repeat(2, 1, 1)
    sizes = {"width": torch.tensor([8, 8]), "height": torch.tensor([6, 6])}
    fisheye = NerfstudioCameras(pose, 5.0, 5.0, 4.0, 3.0, **sizes, camera_type=CameraType.FISHEYE)
    with pytest.raises(ValueError, match="perspective cameras only, not fisheye"):
        to_cameras(fisheye)
    mixed = NerfstudioCameras(pose, 5.0, 5.0, 4.0, 3.0, width=torch.tensor([8, 10]), height=torch.tensor([6, 6]))
    with pytest.raises(ValueError, match="different sizes"):
        to_cameras(mixed)
