# SPDX-License-Identifier: Apache-2.0
"""Depth Anything 3's cameras from predicted rays."""

import math

import pytest
import torch

from ns_diff3r.backbones.depth_anything_3.cameras import homogeneous, rigid_inverse
from ns_diff3r.backbones.depth_anything_3.ray_poses import cameras_from_rays
from ns_diff3r.splats import Cameras, Views
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.backbones.official_views import depth_anything_3

SIZE = (84, 126)
GRID = (48, 72)


def random_cameras(count: int = 5, off_centre: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """World-to-camera, turned as far as may be, and pixel intrinsics of two focal lengths."""
    random = torch.Generator().manual_seed(0)
    rotations = quats_to_rotations(torch.randn(count, 4, generator=random, dtype=torch.float64))
    centers = torch.randn(count, 3, generator=random, dtype=torch.float64)
    Ks = torch.tensor([[100.0, 0, 63], [0, 120, 42], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1)
    Ks[:, 0, 2] += off_centre * torch.randn(count, generator=random, dtype=torch.float64)
    Ks[:, 1, 2] += off_centre * torch.randn(count, generator=random, dtype=torch.float64)
    return rigid_inverse(homogeneous(rotations, centers)), Ks


def rays_of(viewmats: torch.Tensor, Ks: torch.Tensor) -> torch.Tensor:
    """What a perfect network predicts: direction, origin, confidence of every pixel of the grid."""
    y = (torch.arange(GRID[0], dtype=torch.float64) + 0.5) * SIZE[0] / GRID[0]
    x = (torch.arange(GRID[1], dtype=torch.float64) + 0.5) * SIZE[1] / GRID[1]
    pixels = torch.nn.functional.pad(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1), (0, 1), value=1.0)
    camera_to_world = rigid_inverse(viewmats)
    matrices = camera_to_world[:, :3, :3] @ torch.linalg.inv(Ks)
    directions = torch.einsum("vij,hwj->vihw", matrices, pixels)
    origins = camera_to_world[:, :3, 3, None, None].expand(-1, -1, *GRID)
    return torch.cat([directions, origins, torch.ones(len(Ks), 1, *GRID, dtype=torch.float64)], dim=1)


def degrees(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest angle between rotations."""
    trace = (first @ second.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(-1)
    return float(torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos()).max())


@pytest.mark.parametrize("off_centre", [0.0, 9.0])
def test_exact_rays_give_the_cameras_they_are_of(off_centre):
    viewmats, Ks = random_cameras(off_centre=off_centre)
    found = cameras_from_rays(rays_of(viewmats, Ks), SIZE)
    torch.testing.assert_close(found.world_to_camera, viewmats, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.Ks, Ks, atol=1e-3, rtol=0)


def test_lengths_of_rays_do_not_matter():
    viewmats, Ks = random_cameras()
    rays = rays_of(viewmats, Ks)
    rays[:, :3] *= torch.rand(len(Ks), 1, *GRID, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    found = cameras_from_rays(rays, SIZE)
    torch.testing.assert_close(found.world_to_camera, viewmats, atol=1e-5, rtol=0)


def test_noise_and_outliers():
    """A fifth of the rays point anywhere; the others are half a degree off, and float32."""
    random = torch.Generator().manual_seed(2)
    viewmats, Ks = random_cameras()
    rays = rays_of(viewmats, Ks)
    rays[:, :3] /= rays[:, :3].norm(dim=1, keepdim=True)
    rays[:, :3] += math.radians(0.5) * torch.randn(rays[:, :3].shape, generator=random, dtype=torch.float64)
    wrong = torch.rand(len(Ks), 1, *GRID, generator=random) < 0.2
    rays[:, :3] = torch.where(wrong, torch.randn(rays[:, :3].shape, generator=random, dtype=torch.float64), rays[:, :3])
    found = cameras_from_rays(rays.float(), SIZE)
    assert found.Ks.dtype == torch.float32
    assert degrees(found.world_to_camera[:, :3, :3].double(), viewmats[:, :3, :3]) < 0.3
    for axis in (0, 1):
        assert (found.Ks[:, axis, axis] / Ks[:, axis, axis] - 1).abs().max() < 0.02


def test_what_the_network_is_unsure_of_counts_less():
    """Half of the image is of another camera, of little confidence: more than re-weighting alone would bear."""
    viewmats, Ks = random_cameras()
    rays = rays_of(viewmats, Ks)
    others = rays_of(viewmats.roll(1, 0), Ks)
    half = torch.zeros(1, 1, *GRID, dtype=torch.bool)
    half[..., : GRID[1] * 6 // 10] = True
    rays = torch.where(half, others, rays)
    rays[:, 6:] = torch.where(half, 1.0, 50.0)
    found = cameras_from_rays(rays, SIZE)
    assert degrees(found.world_to_camera[:, :3, :3], viewmats[:, :3, :3]) < 6.0
    unaware = cameras_from_rays(torch.cat([rays[:, :6], torch.ones_like(rays[:, 6:])], dim=1), SIZE)
    assert degrees(unaware.world_to_camera[:, :3, :3], viewmats[:, :3, :3]) > 30.0
    centers = rigid_inverse(found.world_to_camera)[:, :3, 3]
    expected = (
        0.6 * rigid_inverse(viewmats.roll(1, 0))[:, :3, 3] + 0.4 * 50 * rigid_inverse(viewmats)[:, :3, 3]
    ) / 20.6
    torch.testing.assert_close(centers, expected, atol=0.05, rtol=0)


def test_rays_of_no_camera_still_give_cameras():
    """As random weights predict them."""
    rays = torch.randn(3, 7, *GRID, generator=torch.Generator().manual_seed(3))
    rays[:, 6] = 1.0
    rays[2, :3] = 0.0
    found = cameras_from_rays(rays, SIZE)
    assert found.world_to_camera.isfinite().all()
    assert found.Ks.isfinite().all()
    torch.testing.assert_close(torch.linalg.det(found.world_to_camera[:, :3, :3]), torch.ones(3))
    assert (found.Ks.diagonal(dim1=1, dim2=2) > 0).all()


def test_the_backbone_takes_poses_from_rays():
    decoder, rays = depth_anything_3(), depth_anything_3(poses_from="rays")
    rays.load_state_dict(decoder.state_dict())
    images = torch.rand(3, 28, 42, 3, generator=torch.Generator().manual_seed(4))
    Ks = torch.tensor([[42.0, 0, 21], [0, 42, 14], [0, 0, 1]]).repeat(3, 1, 1)
    views = Views(images, Cameras(torch.eye(4).repeat(3, 1, 1), Ks, 42, 28))
    plain, fitted = decoder(views), rays(views)
    assert (fitted.cameras.viewmats - plain.cameras.viewmats).abs().max() > 1e-2
    assert torch.equal(fitted.features, plain.features)
    assert fitted.gaussians.check_finite("the prediction") is not None
    fitted.gaussians.means.sum().backward()
    trained = [p for p in rays.parameters() if id(p) not in {id(q) for q in rays.idle_parameters()}]
    assert all(p.grad is None for p in rays.network.cam_dec.parameters())
    assert all(p.grad is None for p in rays.idle_parameters())
    assert sum(p.grad is not None for p in trained) > 100
    with pytest.raises(ValueError, match='poses_from is "decoder" or "rays"'):
        depth_anything_3(poses_from="sun")
