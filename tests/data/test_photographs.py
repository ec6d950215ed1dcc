# SPDX-License-Identifier: Apache-2.0
"""Lenses and EXIF orientations: what is read back must be what the cameras that come with it see."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ns_diff3r.data import Distortion, Intrinsics, load_scene
from ns_diff3r.data.orientations import TURNS, turned_intrinsics, turned_pose
from tests.data.textured_plane import camera, largest_error, write_plane_scene

EIGHT_BIT = 0.5 / 255
# Bilinear interpolation of a texture of at least 25 pixels a period is off by up to 2·(2π/25)²/8 · 0.4 = 0.006; half a
# pixel of shift would be 0.05.
BILINEAR = 0.008
AVERAGED = 0.012
BARREL = Distortion(k1=-0.12, k2=0.02, k3=0.01, k4=-0.01, p1=0.003, p2=-0.004)
PINCUSHION = Distortion(k1=0.1, k2=-0.02, p1=-0.002, p2=0.005)


def test_the_texture_is_seen_as_it_should(tmp_path):
    views = load_scene(write_plane_scene(tmp_path / "scene")).views([0, 1, 2])
    assert largest_error(views) <= EIGHT_BIT + 1e-6


@pytest.mark.parametrize("distortion", [BARREL, PINCUSHION, Distortion(k1=-0.2), Distortion(p1=0.01, p2=0.01)])
def test_a_distorted_photograph_becomes_what_a_pinhole_camera_sees(tmp_path, distortion):
    """Focal lengths and the pixel grid stay; where the photograph does not cover the pinhole image, it is cropped."""
    scene = load_scene(write_plane_scene(tmp_path / "scene", distortion=distortion))
    views = scene.views([0, 1, 2], dtype=torch.float64)
    assert largest_error(views) < BILINEAR
    cameras = camera(0, 0)[1]
    torch.testing.assert_close(views.cameras.Ks[0, :2, :2], cameras.Ks[0, :2, :2])
    shift = cameras.Ks[0, :2, 2] - views.cameras.Ks[0, :2, 2]
    assert (shift == shift.round()).all()
    cropped = (views.cameras.width, views.cameras.height) != (60, 40)
    assert cropped == (distortion.k1 >= 0)
    assert views.cameras.width > 50
    assert views.cameras.height > 32


def test_one_pixel_more_would_show_the_border(tmp_path):
    """The crop takes all that the photograph covers: a pixel further out, some direction is outside of it."""
    scene = load_scene(write_plane_scene(tmp_path / "scene", distortion=PINCUSHION))
    lens = scene.frames[0].development.lens
    assert lens is not None
    left, top, right, bottom = lens.pinhole_box
    for box, inside in (
        ((left, top, right, bottom), True),
        ((left - 1, top, right, bottom), False),
        ((left, top - 1, right, bottom), False),
        ((left, top, right + 1, bottom), False),
        ((left, top, right, bottom + 1), False),
    ):
        x, y = torch.linspace(box[0], box[2], 500).double(), torch.linspace(box[1], box[3], 500).double()
        edges = [torch.stack([x, torch.full_like(x, v)], -1) for v in (box[1], box[3])]
        edges += [torch.stack([torch.full_like(y, v), y], -1) for v in (box[0], box[2])]
        source = lens.source(torch.cat(edges))
        covered = (source > -0.01).all() and (source < torch.tensor([60.01, 40.01])).all()
        assert bool(covered) == inside, box


def test_distortion_is_that_of_opencv():
    """Values of cv2.projectPoints with (k1, k2, p1, p2, k3); k4, which it has not in this form, is the term of r⁸."""
    points = torch.tensor([[0.3, -0.2], [-0.6, 0.45], [0.1, 0.7]], dtype=torch.float64)
    expected = points.new_tensor([[0.29332668, -0.19563779], [-0.58564043, 0.4385272], [0.09292, 0.67694]])
    distortion = Distortion(k1=-0.11, k2=0.05, k3=0.02, p1=0.004, p2=-0.007)
    torch.testing.assert_close(distortion.distort(points), expected, atol=1e-8, rtol=0)
    radius = points.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(Distortion(k4=0.3).distort(points), points * (1 + 0.3 * radius**8))


def test_where_a_distortion_turns_an_image_inside_out():
    """r - 0.3 r³ turns back at r = 1.054; the Jacobian's determinant is that of automatic differentiation."""
    turning = Distortion(k1=-0.3)
    assert not turning.folds(torch.tensor([[1.05, 0.0], [0.0, -1.05], [0.74, 0.74]]).double())
    assert turning.folds(torch.tensor([[0.0, 0.0], [1.06, 0.0]]).double())
    wild = Distortion(k1=-0.5, k2=0.3, k3=-0.2, k4=0.1, p1=0.15, p2=-0.2)
    points = 4 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0)).double() - 2
    jacobian = torch.func.vmap(torch.func.jacrev(wild.distort))(points)
    square = points.square().sum(dim=-1)
    radial = 1 - 0.5 * square + 0.3 * square**2 - 0.2 * square**3 + 0.1 * square**4
    folded = (torch.linalg.det(jacobian) <= 0) | (radial <= 0)
    assert 20 < folded.sum() < 280
    assert [wild.folds(point[None]) for point in points] == folded.tolist()


def test_distortion_params_in_the_order_of_nerfstudio(tmp_path):
    by_name = load_scene(write_plane_scene(tmp_path / "a", distortion=BARREL))
    d = BARREL
    values = [d.k1, d.k2, d.k3, d.k4, d.p1, d.p2]
    by_list = load_scene(write_plane_scene(tmp_path / "b", distortion=BARREL, distortion_params=values, k1=9.0))
    assert by_name.frames[0].development == by_list.frames[0].development


@pytest.mark.parametrize("distortion", [None, BARREL, PINCUSHION])
@pytest.mark.parametrize(
    ("orientation", "upright"), [(1, False), (3, False), (6, False), (6, True), (8, False), (8, True)]
)
def test_turned_photographs(tmp_path, orientation, upright, distortion):
    """Cameras of the stored raster, or of the upright image, give the upright view and its camera."""
    folder = write_plane_scene(
        tmp_path / "scene", orientations=(orientation, 1, orientation), upright=upright, distortion=distortion
    )
    scene = load_scene(folder)
    views = scene.views([0], size=(30, 30))
    full = scene.frames[0].intrinsics
    if distortion is None:
        image = ImageOps.exif_transpose(Image.open(folder / "images" / "0.png"))
        assert (full.width, full.height) == image.size
        left, top = (image.width - 40) // 2, (image.height - 40) // 2
        expected = np.asarray(image, dtype=np.float32)[top : top + 40, left : left + 40] / 255
        whole = scene.views([0], size=(40, 40))
        torch.testing.assert_close(whole.images[0], torch.from_numpy(expected))
        assert largest_error(whole) <= EIGHT_BIT + 1e-6
    assert largest_error(views) < AVERAGED
    assert largest_error(scene.views([0, 1, 2])) < BILINEAR


@pytest.mark.parametrize("orientation", [2, 4, 5, 7])
def test_mirrored_photographs(tmp_path, orientation):
    """A mirror image has no camera, so a raster with a camera of its own stays as it is; an upright one is made."""
    stored = load_scene(write_plane_scene(tmp_path / "stored", orientations=(orientation,) * 2))
    assert largest_error(stored.views([0, 1])) <= EIGHT_BIT + 1e-6
    # The second one is turned by a quarter, so that its size tells what the cameras of the scene are of.
    upright = load_scene(write_plane_scene(tmp_path / "upright", orientations=(orientation, 6), upright=True))
    assert largest_error(upright.views([0, 1])) <= EIGHT_BIT + 1e-6


def test_others_decide_where_the_size_does_not_tell(tmp_path):
    scene = load_scene(write_plane_scene(tmp_path / "upright", orientations=(3, 3, 6), upright=True))
    assert largest_error(scene.views([0, 1, 2])) <= EIGHT_BIT + 1e-6
    # Where they disagree, it is the stored raster.
    folder = write_plane_scene(tmp_path / "mixed", orientations=(3, 6, 6))
    other = write_plane_scene(tmp_path / "other", orientations=(3, 6, 6), upright=True)
    (other / "images" / "2.png").replace(folder / "images" / "2.png")
    assert largest_error(load_scene(folder).views([0, 1, 2], size=(40, 40))) <= EIGHT_BIT + 1e-6
    scene = load_scene(write_plane_scene(tmp_path / "stored", orientations=(3, 3, 6)))
    assert largest_error(scene.views([0, 1], size=(40, 40))) <= EIGHT_BIT + 1e-6
    square = load_scene(write_plane_scene(tmp_path / "square", orientations=(6, 3, 1), size=(40, 40)))
    assert largest_error(square.views([0, 1, 2])) <= EIGHT_BIT + 1e-6


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_four_turns_are_none(orientation):
    pose, cameras = camera(0.3, 1.0)
    k = cameras.Ks[0].tolist()
    intrinsics = Intrinsics(k[0][0], k[1][1], k[0][2], k[1][2], 60, 40)
    turned, turned_k = pose, intrinsics
    for _ in range(4):
        turned, turned_k = turned_pose(turned, orientation), turned_intrinsics(turned_k, orientation)
        assert np.linalg.det(turned[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(turned, pose)
    assert turned_k == intrinsics
    for mirrored in (2, 4, 5, 7):
        assert TURNS[mirrored].mirrors
        with pytest.raises(ValueError, match="mirrors"):
            turned_pose(pose, mirrored)


def test_an_unknown_orientation_is_none(tmp_path):
    scene = load_scene(write_plane_scene(tmp_path / "scene", orientations=(0, 9, 1)))
    assert largest_error(scene.views([0, 1, 2])) <= EIGHT_BIT + 1e-6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_large_photographs_are_reduced_on_reading(tmp_path, orientation, suffix):
    """Sizes that no reduction divides; a reduced raster that is turned begins before its image."""
    folder = write_plane_scene(
        tmp_path / "scene", orientations=(orientation,) * 2, suffix=suffix, size=(603, 421), distortion=BARREL
    )
    views = load_scene(folder).views([0, 1], max_size=60)
    assert max(views.cameras.width, views.cameras.height) == 60
    # Three pixels of 603, by which the raster may begin outside, would be 0.03.
    assert largest_error(views) < 0.008
    assert largest_error(load_scene(folder).views([1], size=(50, 51))) < 0.008
