# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's spherical harmonics beside the standard ones."""

import math

import torch

from ns_diff3r import Cameras, Gaussians, render
from ns_diff3r.backbones.depthsplat.gaussians import PixelGaussians, pixel_gaussians
from ns_diff3r.backbones.depthsplat.harmonics import standard_from_cycled, trained_rotation
from ns_diff3r.splats.covariances import quats_scales_to_covariances
from ns_diff3r.splats.rotations import quats_to_rotations
from ns_diff3r.splats.spherical_harmonics import spherical_harmonics_basis

H = math.sqrt(3) / 2
A, B, C = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15) / 4
BANDS = {
    1: [[0, -1, 0], [0, 0, -1], [1, 0, 0]],
    2: [[0, -1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, -0.5, 0, H], [-1, 0, 0, 0, 0], [0, 0, -H, 0, -0.5]],
    3: [
        [0, 0, 0, A, 0, B, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, B, 0, -A, 0],
        [0, 0, 0, 0, B, 0, -A],
        [C, 0, -0.25, 0, 0, 0, 0],
        [0, 0, 0, 0, A, 0, B],
        [-0.25, 0, -C, 0, 0, 0, 0],
    ],
}
"""The basis change by degree, derived by hand from the harmonics' polynomials."""


def random_directions(count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    directions = torch.randn(count, 3, generator=random, dtype=torch.float64)
    return directions / directions.norm(dim=-1, keepdim=True)


def a_rotation() -> torch.Tensor:
    return quats_to_rotations(torch.tensor([0.7, -0.4, 0.5, 0.2], dtype=torch.float64))


def test_the_basis_change_is_the_known_matrix():
    matrix = standard_from_cycled(3)
    expected = torch.zeros(16, 16, dtype=torch.float64)
    expected[0, 0] = 1
    for band, block in BANDS.items():
        rows = slice(band**2, (band + 1) ** 2)
        expected[rows, rows] = torch.tensor(block, dtype=torch.float64)
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


def test_coefficients_through_the_basis_change_evaluate_as_in_their_own_basis():
    directions = random_directions(50)
    coefficients = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = spherical_harmonics_basis(2, directions[:, [2, 0, 1]]) @ coefficients
    standard = spherical_harmonics_basis(2, directions) @ (standard_from_cycled(2) @ coefficients)
    torch.testing.assert_close(standard, own, rtol=0, atol=1e-12)


def test_a_rendered_colour_is_the_one_of_the_own_basis():
    """One Gaussian seen from many sides by the project's renderer."""
    random = torch.Generator().manual_seed(1)
    coefficients = 0.3 * torch.randn(1, 9, 3, generator=random, dtype=torch.float64)
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    pixel = PixelGaussians(
        means=torch.zeros(1, 3, dtype=torch.float64),
        scales=torch.full((1, 3), 0.3, dtype=torch.float64),
        camera_quats=one,
        world_quats=one,
        opacities=torch.full((1,), 0.9, dtype=torch.float64),
        harmonics=coefficients,
    )
    directions = random_directions(12)  # from the cameras to the Gaussian
    viewmats = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    for matrix, forward in zip(viewmats, directions, strict=True):
        side = torch.linalg.cross(forward, torch.tensor([0.3, 0.5, 0.81], dtype=torch.float64))
        side = side / side.norm()
        matrix[:3, :3] = torch.stack([side, torch.linalg.cross(forward, side), forward])
        matrix[2, 3] = 4.0
    K = torch.tensor([[20.0, 0, 4.5], [0, 20.0, 4.5], [0, 0, 1]], dtype=torch.float64)
    rendering = render(pixel.gaussians(), Cameras(viewmats, K.repeat(12, 1, 1), 9, 9))
    shown = (rendering.rgb / rendering.alpha)[:, 4, 4]
    own = 0.5 + spherical_harmonics_basis(2, directions[:, [2, 0, 1]]) @ coefficients[0]
    assert own.std() > 0.1
    torch.testing.assert_close(shown, own.clamp_min(0), rtol=0, atol=1e-9)


def e3nn_basis(directions: torch.Tensor) -> torch.Tensor:
    """Degrees 1 and 2 in e3nn's order and axes, up to a factor per degree."""
    x, y, z = directions.unbind(-1)
    root = math.sqrt(3)
    second = (root * x * z, root * x * y, y * y - (x * x + z * z) / 2, root * y * z, root / 2 * (z * z - x * x))
    return torch.stack([x, y, z, *second], dim=-1)


def test_the_trained_rotation_is_the_one_of_e3nn():
    rotation, directions = a_rotation(), random_directions(30)
    matrix = trained_rotation(2, rotation)
    before, after = e3nn_basis(directions), e3nn_basis(directions @ rotation.T)
    torch.testing.assert_close(before @ matrix[1:, 1:].T, after, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix[1:4, 1:4], rotation, rtol=0, atol=1e-12)


def some_pixels() -> tuple[PixelGaussians, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    raw = torch.randn(2, 37, 4, 6, generator=random, dtype=torch.float64)
    depth = 1 + torch.rand(2, 4, 6, generator=random, dtype=torch.float64)
    images = torch.rand(2, 3, 4, 6, generator=random, dtype=torch.float64)
    camera_to_world = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    camera_to_world[1, :3, :3] = a_rotation()
    camera_to_world[1, :3, 3] = torch.tensor([0.3, -0.2, 0.1])
    Ks = torch.tensor([[5.0, 0, 3], [0, 5.0, 2], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
    return pixel_gaussians(raw, depth, images, camera_to_world, Ks), camera_to_world


def test_world_quaternions_and_scales_give_the_official_covariances():
    pixels, camera_to_world = some_pixels()
    rotations = camera_to_world[:, :3, :3].repeat_interleave(24, dim=0)
    local = quats_scales_to_covariances(pixels.camera_quats, pixels.scales)
    torch.testing.assert_close(pixels.covariances(), rotations @ local @ rotations.transpose(1, 2))
    torch.testing.assert_close(pixels.gaussians().covariances(), pixels.covariances())


def test_a_written_file_holds_the_standard_conventions(tmp_path):
    pixels, _ = some_pixels()
    pixels.gaussians().to(dtype=torch.float32).save_ply(tmp_path / "scene.ply")
    read = Gaussians.load_ply(tmp_path / "scene.ply")
    torch.testing.assert_close(read.covariances().double(), pixels.covariances(), rtol=1e-4, atol=1e-6)
    standard = torch.cat([read.sh0, read.shN], dim=1).double()
    torch.testing.assert_close(standard, pixels.standard_harmonics(), rtol=1e-5, atol=1e-6)
