# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ns_diff3r.data import load_scene
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.data.generated_room import render_room, room_cameras, room_points, room_solids
from ns_diff3r.data.ray_casting import Box, Material, Sphere, nearest_hit

REPOSITORY = Path(__file__).resolve().parents[2]


def count_pairs(gaussians, cameras, tile: int = 64) -> float:
    """Gaussians per pixel with alpha >= 1/255, hidden ones included: brute force over the image centre."""
    size, focal = cameras.width, float(cameras.Ks[0, 0, 0])
    means = gaussians.means.double()
    center = focal * means[:, :2] / means[:, 2:] + size / 2
    spread = (focal * gaussians.scales_activated.double().mean(dim=-1) / means[:, 2]).square() + 0.3
    start = (size - tile) // 2
    axis = torch.arange(start, start + tile).double() + 0.5
    total = 0
    for row in axis:
        near = (center[:, 1] - row).abs() < 4 * spread.sqrt()
        squared = (center[near, 0, None] - axis).square() + (center[near, 1] - row).square()[:, None]
        alpha = gaussians.opacities_activated[near, None].double() * torch.exp(-squared / (2 * spread[near, None]))
        total += int((alpha >= 1 / 255).sum())
    return total / tile**2


@pytest.mark.parametrize("pairs", [28.0, 40.0])
def test_pixel_aligned_scene_has_the_asked_for_pairs(pairs):
    gaussians, cameras = pixel_aligned_scene(image_size=64, contributions_per_pixel=pairs)
    assert gaussians.num_gaussians == 2 * 64 * 64
    assert count_pairs(gaussians, cameras, tile=32) == pytest.approx(pairs, rel=0.15)


def test_pixel_aligned_scene_is_what_a_network_would_predict():
    gaussians, cameras = pixel_aligned_scene(image_size=64, num_gaussians=5001, contributions_per_pixel=25, sh_degree=2)
    assert gaussians.num_gaussians == 5001
    assert gaussians.sh_degree == 2
    assert (cameras.width, cameras.height) == (64, 64)
    gaussians.check_finite()
    widths = gaussians.scales_activated * 64 / gaussians.means[:, 2:]
    assert 0.4 < widths.median() < 1.2
    assert (gaussians.opacities_activated > 0.09).all()
    assert (gaussians.opacities_activated < 0.51).all()
    again, _ = pixel_aligned_scene(image_size=64, num_gaussians=5001, contributions_per_pixel=25, sh_degree=2)
    assert torch.equal(gaussians.flatten(), again.flatten())


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="so few pairs per pixel"):
        pixel_aligned_scene(image_size=16, contributions_per_pixel=2)


def test_rays_hit_solids_where_geometry_says():
    plain = Material(lambda points, normals: torch.ones_like(points))
    sphere, box = Sphere((0, 0, 5), 1.0, plain), Box((0, 0, 10), (1, 1, 1), plain, yaw=math.pi / 4)
    room = Box((0, 0, 0), (20, 20, 20), plain, inside=True)
    origins = torch.zeros(3, 3).double()
    slope = torch.tensor([0.25, 0.0, 1.0]).double()
    directions = torch.stack(
        [torch.tensor([0.0, 0, 1]).double(), slope / slope.norm(), torch.tensor([0.0, 0, -1]).double()]
    )
    distance, which = nearest_hit([sphere, box, room], origins, directions)
    assert which.tolist() == [0, 2, 2]
    assert distance.tolist() == pytest.approx([4.0, 20 * float(slope.norm()), 20.0])
    origins = origins + torch.tensor([1.2, 0, 0]).double()  # passes the sphere, meets the corner of the turned box
    distance, which = nearest_hit([sphere, box, room], origins[:1], directions[:1])
    assert which.tolist() == [1]
    assert distance.tolist() == pytest.approx([9.0])
    normal, _ = box.normals(torch.tensor([[1.2, 0.0, 9.0]]).double())
    assert normal[0].tolist() == pytest.approx([0, 0, -1])


def test_room_is_consistent_over_views():
    """A surface point seen without occlusion has nearly the same colour in its views, which a wrong camera breaks."""
    cameras = room_cameras(num_views=4, width=80, height=60)
    images, cloud = render_room(cameras, samples=2), room_points(cameras, count=400)
    points = torch.from_numpy(cloud.points)
    solids = room_solids()
    differences = []
    for v in range(4):
        offset = points - cameras.centers[v]
        visible = nearest_hit(solids, cameras.centers[v].expand_as(points), offset / offset.norm(dim=-1, keepdim=True))
        local = points @ cameras.viewmats[v, :3, :3].T + cameras.viewmats[v, :3, 3]
        pixel = (local @ cameras.Ks[v].T)[:, :2] / local[:, 2:]
        inside = (local[:, 2] > 0) & (pixel >= 1).all(-1) & (pixel < torch.tensor([79.0, 59.0])).all(-1)
        inside &= (visible[0] - offset.norm(dim=-1)).abs() < 1e-6
        column, row = pixel[inside].long().unbind(-1)
        differences.append((images[v, row, column].double() - torch.from_numpy(cloud.colors)[inside]).abs().mean(-1))
    assert torch.cat(differences).median() < 0.03
    assert len(torch.cat(differences)) > 800  # most points are seen by several views


def test_bundled_example_is_what_its_script_makes():
    scene = load_scene(REPOSITORY / "examples" / "room")
    assert scene.num_frames == 12
    assert sum(f.stat().st_size for f in (REPOSITORY / "examples" / "room").rglob("*") if f.is_file()) < 1_000_000
    views = scene.views([5], max_size=60)
    cameras = room_cameras(num_views=12, width=60, height=45)
    torch.testing.assert_close(views.cameras.viewmats, cameras.viewmats[5:6].float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(views.cameras.Ks, cameras.Ks[5:6].float())
    error = (views.images[0] - render_room(cameras[5], samples=4)[0]).abs()
    assert error.mean() < 0.01  # JPEG and another sampling
    assert scene.points is not None
    assert scene.points.points.shape == (4000, 3)
    assert np.isfinite(scene.points.points).all()
