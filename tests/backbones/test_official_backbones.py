# SPDX-License-Identifier: Apache-2.0
"""DepthSplat and Depth Anything 3 as backbones: the protocol, any world, any size, gradients, bad input."""

import pytest
import torch

from ns_diff3r.backbones import DepthAnything3Config, DepthSplatConfig
from ns_diff3r.splats import Cameras, Views
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.backbones.official_views import depth_anything_3, depthsplat
from tests.backbones.scene_views import wall_views

KINDS = {
    "depthsplat": lambda: depthsplat(),
    "depthsplat two scales": lambda: depthsplat(num_scales=2, upsample_factor=2),
    "da3": lambda: depth_anything_3(),
    "da3 given": lambda: depth_anything_3(poses="given"),
}


def world(scale: float, turned: bool) -> Similarity:
    quats = torch.tensor([0.3, -0.8, 0.5, 0.2] if turned else [1.0, 0, 0, 0], dtype=torch.float64)
    return Similarity(
        torch.tensor(scale).double(), quats_to_rotations(quats), torch.tensor([30.0, -70.0, 200.0]).double()
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 48), (37, 50)])
def test_one_gaussian_a_pixel_in_the_world_of_the_context(kind, size):
    views, _ = wall_views(num_views=2, size=size)
    network = KINDS[kind]()
    prediction = network(views)
    count, height, width = prediction.grid
    assert count == 2
    assert prediction.features.shape == (2 * height * width, network.feature_dim)
    assert prediction.gaussians.sh_degree == network.sh_degree
    prediction.gaussians.check_finite()
    if kind.startswith("depthsplat"):
        assert (height, width) == size
        assert prediction.cameras is None
    else:
        assert (height, width) == tuple(max(1, round(side / 14)) * 14 for side in size)
        seen = prediction.as_seen(views).cameras
        assert torch.equal(seen.viewmats, prediction.cameras.viewmats)
        assert torch.equal(seen.Ks, prediction.cameras.Ks)
        assert (prediction.cameras.width, prediction.cameras.height) == (size[1], size[0])
        center = prediction.cameras.Ks[:, :2, 2]
        torch.testing.assert_close(center, torch.tensor([size[1] / 2, size[0] / 2]).expand(2, 2))
    assert prediction.coarse == ()


@torch.no_grad()
def test_padding_adds_nothing_within_the_image():
    """Where the image is continued by hand, the same pixels come out."""
    network = depthsplat()
    views, _ = wall_views(num_views=2, size=(40, 50))
    images = torch.nn.functional.pad(views.images.permute(0, 3, 1, 2), (0, 14, 0, 8), mode="replicate")
    cameras = Cameras(views.cameras.viewmats, views.cameras.Ks, 64, 48)
    larger = Views(images.permute(0, 2, 3, 1), cameras, views.near, views.far)
    kept = network(larger).gaussians.means.view(2, 48, 64, 3)[:, :40, :50].reshape(-1, 3)
    assert torch.equal(network(views).gaussians.means, kept)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_changes_of_the_world_change_the_gaussians_alike(kind):
    """DepthSplat's harmonics do not turn with the world (its official weights are made so); all else does."""
    frame = world(10.0, turned=kind.startswith("da3"))
    views, _ = wall_views(num_views=3, size=(32, 48), dtype=torch.float64)
    network = KINDS[kind]().double()
    before, after = network(views), network(frame.apply_views(views))
    expected = frame.apply_gaussians(before.gaussians)
    for name, tolerance in (("means", 1e-6), ("scales", 1e-6), ("opacities", 1e-7), ("sh0", 1e-7), ("shN", 1e-6)):
        actual, wanted = getattr(after.gaussians, name), getattr(expected, name)
        torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance * 10)
    rotations = [quats_to_rotations(gaussians.quats) for gaussians in (after.gaussians, expected)]
    torch.testing.assert_close(rotations[0], rotations[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(after.features, before.features, rtol=1e-6, atol=1e-6)
    if before.cameras is not None:
        torch.testing.assert_close(after.cameras.viewmats, frame.apply_cameras(before.cameras).viewmats)


@torch.no_grad()
def test_photographs_without_poses():
    """Cameras that are all the same stand for poses that nobody knows."""
    views, _ = wall_views(num_views=3, size=(32, 48))
    unknown = Cameras(torch.eye(4).repeat(3, 1, 1), views.cameras.Ks, 48, 32)
    prediction = depth_anything_3()(Views(views.images, unknown))
    prediction.gaussians.check_finite()
    centers = prediction.cameras.centers
    assert (centers - centers[0]).norm(dim=-1)[1:].min() > 1e-4


IRRELEVANT = ("downsample.0.bias",)
"""A bias before a norm of its own channel."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_only", [False, True])
def test_gradients_reach_what_is_trained_and_nothing_else(kind, head_only):
    views, _ = wall_views(num_views=3, size=(32, 48))
    network = KINDS[kind]().train()
    head = {id(parameter) for parameter in network.gaussian_head_parameters()}
    idle = {id(parameter) for parameter in network.idle_parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in head if head_only else id(parameter) not in idle)
    prediction = network(views)
    scenes = [prediction.gaussians, *prediction.coarse]
    assert len(scenes) == (2 if kind.endswith("two scales") and not head_only else 1)
    leaves = [leaf for scene in scenes for leaf in scene.leaves()]
    sum(leaf.square().mean() for leaf in (*leaves, prediction.features)).backward()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0 or name.endswith(IRRELEVANT), name


def test_the_head_is_the_one_of_the_paper():
    names = {name.split(".")[1] for name in heads(depthsplat())}
    assert names == {"feature_upsampler", "gaussian_regressor", "gaussian_head"}
    assert {name.split(".")[1] for name in heads(depth_anything_3())} == {"gs_head"}


def heads(network) -> list[str]:
    chosen = {id(parameter) for parameter in network.gaussian_head_parameters()}
    return [name for name, parameter in network.named_parameters() if id(parameter) in chosen]


def test_what_they_cannot_use_is_named():
    views, _ = wall_views(num_views=2, size=(32, 48))
    network = depthsplat()
    with pytest.raises(ValueError, match="at least two context views, got 1"):
        network(views[0])
    with pytest.raises(ValueError, match="depth range"):
        network(Views(views.images, views.cameras))
    with pytest.raises(ValueError, match="at least 16 pixels"):
        network(wall_views(num_views=2, size=(15, 40))[0])
    with pytest.raises(ValueError, match="at least 14 pixels"):
        depth_anything_3()(wall_views(num_views=2, size=(10, 40))[0])
    with pytest.raises(ValueError, match="multiples of 16"):
        network.network(torch.zeros(2, 3, 30, 32), *(torch.zeros(2, 4, 4), torch.zeros(2, 3, 3)), *torch.ones(2, 2))


@torch.no_grad()
def test_one_photograph_is_enough_for_depth_anything_3():
    views, _ = wall_views(num_views=2, size=(28, 42))
    depth_anything_3()(views[0]).gaussians.check_finite()


def test_configs_check_themselves():
    with pytest.raises(ValueError, match="recipe"):
        DepthSplatConfig(recipe="mine")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="reference_near"):
        DepthSplatConfig(reference_near=-1.0)
    with pytest.raises(ValueError, match="num_scales"):
        DepthSplatConfig(num_scales=3)
    with pytest.raises(ValueError, match="poses"):
        DepthAnything3Config(poses="maybe")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_size"):
        DepthAnything3Config(max_size=10)
    assert DepthSplatConfig(size="base", recipe="dl3dv").wiring().stride == 32


@torch.no_grad()
def test_large_photographs_are_made_smaller():
    views, _ = wall_views(num_views=2, size=(60, 120))
    prediction = depth_anything_3(max_size=56)(views)
    assert prediction.grid == (2, 28, 56)
    torch.testing.assert_close(prediction.cameras.Ks[:, 0, 2], torch.full((2,), 60.0))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["depthsplat", "da3"])
def test_autocast_leaves_depths_and_gaussians_alone(kind):
    views, _ = wall_views(num_views=2, size=(32, 48))
    network = KINDS[kind]()
    expected = network(views).gaussians
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = network(views).gaussians
    actual.check_finite()
    assert actual.dtype == torch.float32
    if kind == "depthsplat":  # DA3's trunk may run in half precision, its heads do not
        assert all(torch.equal(a, b) for a, b in zip(actual.leaves(), expected.leaves(), strict=True))
