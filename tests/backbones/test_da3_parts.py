# SPDX-License-Identifier: Apache-2.0
"""Parts of Depth Anything 3: rotary positions, order of views, alignment of cameras."""

import pytest
import torch

from ns_diff3r.backbones.blocks.rotary import rotary_angles, rotated
from ns_diff3r.backbones.blocks.vision_transformer import GatedFeedForward
from ns_diff3r.backbones.depth_anything_3 import Architecture, DepthAnything3Network
from ns_diff3r.backbones.depth_anything_3.alignment import aligning_similarity, umeyama_scale
from ns_diff3r.backbones.depth_anything_3.cameras import homogeneous, rigid_inverse
from ns_diff3r.backbones.depth_anything_3.trunk import reference_view
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.backbones.official_views import depth_anything_3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rotary_products_depend_on_differences_of_positions_alone():
    heads = torch.randn(1, 1, 2, 64, generator=generator(), dtype=torch.float64)
    products = []
    for offset in (0, 5):
        positions = torch.tensor([[1, 2], [4, 3]]) + offset
        query, key = rotated(heads, rotary_angles(positions, 64, torch.float64))[0, 0]
        products.append(query @ key)
    assert abs(products[0] - products[1]) < 1e-4  # angles are float32
    moved = rotated(heads, rotary_angles(torch.tensor([[1, 2], [4, 4]]), 64, torch.float64))[0, 0]
    assert abs(moved[0] @ moved[1] - products[0]) > 1e-2
    still = rotated(heads, rotary_angles(torch.zeros(2, 2, dtype=torch.long), 64, torch.float64))
    assert torch.equal(still, heads)


def test_the_reference_is_the_view_in_the_middle():
    tokens = torch.randn(5, 16, generator=generator(1), dtype=torch.float64)
    lengths = tokens.norm(dim=1)
    units = tokens / lengths[:, None]
    alike = [sum(float(units[i] @ units[j]) for j in range(5) if j != i) / 4 for i in range(5)]
    measures = torch.tensor([alike, lengths.tolist(), [float(unit.var()) for unit in units]], dtype=torch.float64)
    low, high = measures.amin(1, keepdim=True), measures.amax(1, keepdim=True)
    score = ((measures - low) / (high - low) - 0.5).abs().sum(0)
    assert reference_view(tokens) == int(score.argmin()) != 0
    order = torch.tensor([4, 2, 0, 1, 3])
    assert int(order[reference_view(tokens[order])]) == reference_view(tokens)


@torch.no_grad()
@pytest.mark.parametrize("num_views", [3, 4])
def test_without_poses_the_order_of_the_views_does_not_matter(num_views):
    network = depth_anything_3().network
    images = torch.randn(num_views, 3, 28, 42, generator=generator(2))
    before = network(images)
    order = torch.tensor([2, 0, 1, 3][:num_views])
    after = network(images[order])
    assert int(order[after.trunk.order[0]]) == int(before.trunk.order[0])
    torch.testing.assert_close(after.maps.depth, before.maps.depth[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.raw, before.raw[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        after.cameras.world_to_camera, before.cameras.world_to_camera[order], rtol=1e-4, atol=1e-5
    )
    assert int(before.trunk.order[0]) != 0 or int(after.trunk.order[0]) != 0  # something was put back


@torch.no_grad()
def test_given_poses_change_the_result_and_keep_the_order():
    network = depth_anything_3(poses="given").network
    images = torch.randn(3, 3, 28, 28, generator=generator(2))
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1.0, -1.0])
    Ks = torch.tensor([[30.0, 0, 14], [0, 30.0, 14], [0, 0, 1]]).repeat(3, 1, 1)
    given = network(images, poses, Ks)
    assert given.trunk.order.tolist() == [0, 1, 2]
    assert (given.maps.depth - network(images).maps.depth).abs().max() > 1e-3
    with pytest.raises(ValueError, match="together"):
        network(images, poses)


@torch.no_grad()
def test_rays_are_there_for_who_wants_them():
    network = depth_anything_3().network
    output = network(torch.randn(2, 3, 28, 42, generator=generator()))
    rays = network.head.rays(output.trunk.features, (28, 42))
    assert rays.shape == (2, 7, 16, 24)
    assert (rays[:, 6] >= 1).all()


def test_architectures_by_their_shapes():
    assert Architecture.of_weights({"x": (1,)}) is None
    with torch.device("meta"):
        large = DepthAnything3Network(Architecture("large", gaussians=False))
    shapes = {name: tuple(value.shape) for name, value in large.state_dict().items()}
    assert Architecture.of_weights(shapes) == Architecture("large", gaussians=False)
    with pytest.raises(ValueError, match="not 'tiny'"):
        Architecture("tiny")  # pyright: ignore[reportArgumentType]


@torch.no_grad()
@pytest.mark.parametrize("size", ["base", "large", "giant"])
def test_larger_sizes_fit_together(size):
    """Shapes alone, on the meta device: from images to raw Gaussians, with and without poses."""
    with torch.device("meta"):
        network = DepthAnything3Network(Architecture(size)).eval()
        images, poses, Ks = torch.empty(2, 3, 42, 56), torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
        for given in ((), (poses, Ks)):
            output = network(images, *given)
            assert output.raw is not None
            assert output.raw.shape == (2, 38, 42, 56)
            assert output.maps.depth.shape == (2, 42, 56)
            assert output.cameras.world_to_camera.shape == (2, 4, 4)


@torch.no_grad()
def test_gated_layers_of_the_giant():
    layer = GatedFeedForward(24).double()
    assert layer.w12.weight.shape == (128, 24)
    x = torch.randn(2, 5, 24, generator=generator(), dtype=torch.float64)
    gate, value = (x @ w.T + b for w, b in zip(layer.w12.weight.chunk(2), layer.w12.bias.chunk(2), strict=True))
    expected = (gate * gate.sigmoid() * value) @ layer.w3.weight.T + layer.w3.bias
    torch.testing.assert_close(layer(x), expected)
    assert GatedFeedForward(1536).w3.weight.shape == (1536, 4096)


def cameras(count: int, apart: float = 1.0) -> torch.Tensor:
    """World-to-camera matrices, float64."""
    quats = torch.randn(count, 4, generator=generator(4), dtype=torch.float64)
    centers = apart * torch.randn(count, 3, generator=generator(5), dtype=torch.float64)
    return rigid_inverse(homogeneous(quats_to_rotations(quats), centers))


def moved(world_to_camera: torch.Tensor, frame: Similarity) -> torch.Tensor:
    """The cameras after a change of the world; their own units stay."""
    camera_to_world = rigid_inverse(world_to_camera)
    return rigid_inverse(
        homogeneous(frame.rotation @ camera_to_world[:, :3, :3], frame.apply_points(camera_to_world[:, :3, 3]))
    )


def a_similarity() -> Similarity:
    rotation = quats_to_rotations(torch.tensor([0.3, -0.8, 0.5, 0.2], dtype=torch.float64))
    return Similarity(torch.tensor(2.5).double(), rotation, torch.tensor([3.0, -7.0, 20.0]).double())


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_known_similarity_is_found(count):
    predicted, frame = cameras(count), a_similarity()
    given = moved(predicted, frame)
    found = aligning_similarity(given, predicted)
    torch.testing.assert_close(found.scale, frame.scale)
    torch.testing.assert_close(found.rotation, frame.rotation)
    torch.testing.assert_close(found.translation, frame.translation)
    assert abs(umeyama_scale(given, predicted) - 2.5) < 1e-9


@pytest.mark.parametrize("count", [1, 3])
def test_cameras_at_one_place_keep_the_size(count):
    """One camera, or photographs whose poses are not known and stand for the origin."""
    predicted = cameras(count)
    placeholder = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    found = aligning_similarity(placeholder, predicted)
    assert float(found.scale) == 1.0
    center = found.apply_points(rigid_inverse(predicted)[:, :3, 3]).mean(0)
    torch.testing.assert_close(center, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones((), dtype=torch.float64))
    if count == 1:
        assert torch.allclose(moved(predicted, found), placeholder)
    assert umeyama_scale(placeholder, predicted) == 1.0


def test_the_official_scale_has_limits():
    predicted = cameras(3)
    large = Similarity(torch.tensor(10.0).double(), torch.eye(3).double(), torch.zeros(3).double())
    assert umeyama_scale(moved(predicted, large), predicted) == 3.0
    assert umeyama_scale(predicted, moved(predicted, large)) == pytest.approx(1 / 3)


def test_cameras_that_contradict_one_another_still_give_a_rotation():
    for seed in range(30):
        quats = torch.randn(2, 3, 4, generator=generator(seed), dtype=torch.float64)
        centers = torch.randn(2, 3, 3, generator=generator(seed + 100), dtype=torch.float64)
        given, predicted = (homogeneous(quats_to_rotations(q), c) for q, c in zip(quats, centers, strict=True))
        found = aligning_similarity(given, predicted)
        torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones((), dtype=torch.float64))


def test_mirrored_centres_are_not_turned_inside_out():
    predicted = cameras(5)
    poses = rigid_inverse(predicted)
    given = rigid_inverse(homogeneous(poses[:, :3, :3], poses[:, :3, 3] * torch.tensor([-1.0, 1, 1])))
    found = aligning_similarity(given, predicted)
    assert torch.linalg.det(found.rotation) > 0
    assert umeyama_scale(given, predicted) < 1
