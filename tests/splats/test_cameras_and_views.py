# SPDX-License-Identifier: Apache-2.0
"""Cameras and views: conventions and the errors of bad input."""

import pytest
import torch

from ns_diff3r.splats import Cameras, Views
from tests.splats.random_gaussians import random_cameras


def camera_with(**fields) -> Cameras:
    good = random_cameras()
    return Cameras(**({"viewmats": good.viewmats, "Ks": good.Ks, "width": 40, "height": 30} | fields))


def changed(tensor: torch.Tensor, index: tuple, value: float) -> torch.Tensor:
    copy = tensor.clone()
    copy[index] = value
    return copy


GOOD = random_cameras()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"viewmats": GOOD.viewmats[:, :3]}, ValueError, r"viewmats must have shape \[V, 4, 4\], got \[3, 3, 4\]"),
        ({"Ks": GOOD.Ks[:2]}, ValueError, r"Ks must have shape \[3, 3, 3\]"),
        ({"Ks": GOOD.Ks.float()}, TypeError, "one dtype"),
        ({"Ks": GOOD.Ks.to("meta")}, ValueError, "one device"),
        ({"viewmats": GOOD.viewmats.half(), "Ks": GOOD.Ks.half()}, TypeError, "float32 or float64"),
        ({"width": 0}, ValueError, "width must be positive, got 0"),
        ({"height": -3}, ValueError, "height must be positive, got -3"),
        ({"width": 40.0}, TypeError, "width must be an int, got float"),
        ({"viewmats": changed(GOOD.viewmats, (1, 0, 3), torch.nan)}, ValueError, "viewmats has 1 non-finite value of"),
        ({"viewmats": changed(GOOD.viewmats, (0, 3, 0), 0.1)}, ValueError, "bottom row"),
        ({"viewmats": GOOD.viewmats.mT.contiguous()}, ValueError, "bottom row"),
        ({"viewmats": GOOD.viewmats * torch.tensor([[2.0], [2.0], [2.0], [1.0]])}, ValueError, "rotation"),
        ({"viewmats": GOOD.viewmats * torch.tensor([[1.0], [1.0], [-1.0], [1.0]])}, ValueError, "no mirror"),
        ({"Ks": changed(GOOD.Ks, (2, 1, 1), -31.0)}, ValueError, "focal lengths must be positive"),
        ({"Ks": changed(GOOD.Ks, (0, 0, 1), 0.5)}, ValueError, "no skew"),
    ],
)
def test_bad_cameras(fields, error, message):
    with pytest.raises(error, match=message):
        camera_with(**fields)


def test_centers_are_where_camera_coordinates_vanish():
    cameras = random_cameras()
    homogeneous = torch.cat([cameras.centers, torch.ones(3, 1)], dim=1).double()
    in_camera = (cameras.viewmats @ homogeneous[..., None])[:, :3, 0]
    torch.testing.assert_close(in_camera, torch.zeros(3, 3, dtype=torch.float64), atol=1e-14, rtol=0)


def test_opengl_camera_to_world():
    # A camera at (0, 0, 5) that looks down the world's -z with y up: the identity rotation in OpenGL.
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = 5.0
    cameras = Cameras.from_camera_to_world_opengl(pose, torch.eye(3)[None], 4, 4)
    torch.testing.assert_close(cameras.centers, torch.tensor([[0.0, 0.0, 5.0]]))
    point = torch.tensor([1.0, 2.0, 0.0, 1.0])  # right of it, above it, five units ahead
    assert (cameras.viewmats[0] @ point)[:3].tolist() == [1.0, -2.0, 5.0]
    upper_rows = Cameras.from_camera_to_world_opengl(pose[:, :3], torch.eye(3)[None], 4, 4)
    assert torch.equal(upper_rows.viewmats, cameras.viewmats)
    with pytest.raises(ValueError, match=r"\[V, 3, 4\] or \[V, 4, 4\], got \[1, 2, 4\]"):
        Cameras.from_camera_to_world_opengl(pose[:, :2], torch.eye(3)[None], 4, 4)


def test_camera_selection_and_conversion():
    cameras = random_cameras(4)
    assert cameras[2].num_views == 1
    assert torch.equal(cameras[-1].viewmats, cameras.viewmats[3:])
    assert torch.equal(cameras[1:3].viewmats, cameras.viewmats[1:3])
    assert torch.equal(cameras[torch.tensor([3, 0])].Ks, cameras.Ks[[3, 0]])
    with pytest.raises(IndexError):
        cameras[4]
    assert cameras.to(dtype=torch.float32).dtype == torch.float32
    assert "num_views=4" in repr(cameras)


def test_float32_poses_rounded_in_files_pass():
    viewmats = (GOOD.viewmats * 1e4).round() / 1e4
    assert camera_with(viewmats=viewmats).num_views == 3


def test_construction_keeps_gradients():
    viewmats = GOOD.viewmats.clone().requires_grad_()
    camera_with(viewmats=viewmats).centers.sum().backward()
    assert viewmats.grad is not None
    assert viewmats.grad.abs().sum() > 0


IMAGES = torch.rand(3, 30, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ONES = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"images": IMAGES[:, :, :39]}, ValueError, r"images must have shape \[3, 30, 40, 3\], got \[3, 30, 39, 3\]"),
        ({"images": IMAGES.permute(0, 3, 1, 2)}, ValueError, r"got \[3, 3, 30, 40\]"),
        ({"images": IMAGES[:2]}, ValueError, r"must have shape \[3, 30"),
        ({"images": IMAGES[:, :0]}, ValueError, "zero size"),
        ({"images": (IMAGES * 255).to(torch.uint8)}, TypeError, "divide by 255"),
        ({"images": IMAGES * 255}, ValueError, r"must lie in \[0, 1\], got \[.*; divide 8-bit images by 255"),
        ({"images": IMAGES - 0.5}, ValueError, r"must lie in \[0, 1\]"),
        ({"images": changed(IMAGES, (0, 0, 0, 0), torch.nan)}, ValueError, "non-finite"),
        ({"images": IMAGES.float()}, TypeError, "one dtype"),
        ({"images": IMAGES.to("meta")}, ValueError, "one device"),
        ({"near": ONES[:2]}, ValueError, r"near must have shape \[3\]"),
        ({"near": 0 * ONES}, ValueError, "near must be positive"),
        ({"near": ONES, "far": ONES}, ValueError, "near must be smaller"),
        ({"far": ONES * torch.inf}, ValueError, "far has 3 non-finite"),
        ({"cameras": GOOD.viewmats}, TypeError, "cameras must be Cameras, got Tensor"),
    ],
)
def test_bad_views(fields, error, message):
    with pytest.raises(error, match=message):
        Views(**({"images": IMAGES, "cameras": GOOD} | fields))


def test_views_selection_and_conversion():
    views = Views(IMAGES, GOOD, near=ONES, far=torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    assert views.num_views == 3
    last = views[-1]
    assert last.far is not None
    assert last.far.tolist() == [4.0]
    assert last.cameras.num_views == 1
    assert torch.equal(views[1:].images, IMAGES[1:])
    single = views.to(dtype=torch.float32)
    assert single.dtype == single.cameras.dtype == torch.float32
    assert Views(IMAGES, GOOD)[0].near is None
    assert "near=None" in repr(Views(IMAGES, GOOD))


def test_points_project_to_the_pixels_whose_rays_they_lie_on():
    """Two views of size 8 x 6, the second turned about y by a right angle and moved."""
    K = torch.tensor([[5.0, 0.0, 4.0], [0.0, 6.0, 3.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    viewmats[1, :3, :3] = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    viewmats[1, :3, 3] = torch.tensor([0.0, 0.0, 2.0])
    cameras = Cameras(viewmats, K.repeat(2, 1, 1), 8, 6)
    points = torch.tensor([[0.0, 0.0, 2.0], [1.0, -1.0, 5.0], [3.0, 1.0, -0.5], [8.0, 0.0, 2.0]], dtype=torch.float64)
    pixels, depths = cameras.project(points)
    torch.testing.assert_close(depths, torch.tensor([[2.0, 5.0, -0.5, 2.0], [2.0, 3.0, 5.0, 10.0]]).double())
    torch.testing.assert_close(pixels[0, :2], torch.tensor([[4.0, 3.0], [5.0, 1.8]]).double())
    torch.testing.assert_close(pixels[1, 2], torch.tensor([4.5, 4.2]).double())
    assert cameras.in_image(pixels, depths).tolist() == [[True, True, False, False], [False, False, True, True]]
