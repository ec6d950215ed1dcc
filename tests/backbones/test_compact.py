# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from ns_diff3r.backbones import CompactBackbone, CompactConfig, tiny_config
from ns_diff3r.backbones.compact import MIN_SIZE
from ns_diff3r.backbones.compact_resolution import reduced
from ns_diff3r.rasterization import render
from ns_diff3r.splats import Cameras, Gaussians, Views
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.rotations import quats_to_rotations, rotations_to_quats
from tests.backbones.scene_views import wall_views


def make_network(perturb: float = 0.0, **changes) -> CompactBackbone:
    """A tiny network; `perturb` moves its weights away from the initialisation, where much of it is silent."""
    torch.manual_seed(0)
    network = tiny_config(num_depths=16, **changes).setup()
    assert isinstance(network, CompactBackbone)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += perturb * torch.randn(parameter.shape)
    return network


def assert_same_scene(actual: Gaussians, expected: Gaussians, tolerance: float = 1e-4) -> None:
    """Equal up to rounding; the sign of a quaternion is free."""
    size = float(expected.means.abs().max())
    torch.testing.assert_close(actual.means, expected.means, rtol=tolerance, atol=tolerance * size)
    rotations = [quats_to_rotations(g.quats) for g in (actual, expected)]
    torch.testing.assert_close(rotations[0], rotations[1], rtol=0, atol=tolerance)
    for name in ("scales", "opacities", "sh0", "shN"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_it_finds_the_depth_of_a_textured_wall_before_training():
    views, depth = wall_views()
    prediction = make_network()(views)
    assert prediction.grid == (3, 32, 40)
    pixels = prediction.gaussians[: 3 * 32 * 40]
    local = torch.einsum("vij,vpj->vpi", views.cameras.viewmats[:, :3, :3], pixels.means.view(3, -1, 3))
    found = (local + views.cameras.viewmats[:, None, :3, 3])[..., 2].view(depth.shape)
    error = (1 / found - 1 / depth).abs() / (1 / 2 - 1 / 12)
    assert error.median() < 0.03
    assert (error < 0.1).double().mean() > 0.85
    colors = make_network(sharpening=0.0)(views).gaussians[: 3 * 32 * 40].sh0[:, 0]
    torch.testing.assert_close(0.5 + 0.28209479 * colors, views.images.reshape(-1, 3))


def moved_world() -> Similarity:
    rotation = quats_to_rotations(torch.tensor([0.3, -0.8, 0.5, 0.2], dtype=torch.float64))
    return Similarity(torch.tensor(10.0).double(), rotation, torch.tensor([3.0, -7.0, 20.0]).double())


@torch.no_grad()
@pytest.mark.parametrize("perturb", [0.0, 0.03])
def test_world_changes_change_the_output_alike(perturb):
    views, _ = wall_views(dtype=torch.float64)
    network = make_network(perturb, sh_degree=2).double()
    before, after = network(views), network(moved_world().apply_views(views))
    assert_same_scene(after.gaussians, moved_world().apply_gaussians(before.gaussians), 1e-9)
    torch.testing.assert_close(after.features, before.features, rtol=1e-9, atol=1e-9)
    if perturb:
        assert before.gaussians.shN.abs().max() > 0.01


@torch.no_grad()
def test_world_changes_in_single_precision():
    views, _ = wall_views()
    network = make_network()
    expected = moved_world().apply_gaussians(network(views).gaussians)
    assert_same_scene(network(moved_world().apply_views(views)).gaussians, expected)


@torch.no_grad()
@pytest.mark.parametrize("perturb", [0.0, 0.03])
def test_permuting_the_views_permutes_the_output(perturb):
    views, _ = wall_views(num_views=6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    network = make_network(perturb)
    before, after = network(views), network(views[order])
    count = 6 * 32 * 40
    for part in (slice(0, count), slice(count, None)):  # one per pixel, backdrop
        permuted = before.gaussians[part].map(lambda leaf: leaf.unflatten(0, (6, -1))[order].flatten(0, 1))
        assert_same_scene(after.gaussians[part], permuted)


@torch.no_grad()
def test_sizes_that_are_no_multiple_of_the_stride():
    network = make_network(0.02)
    for size in ((MIN_SIZE, 9), (17, 33), (31, 50)):
        views, _ = wall_views(num_views=2, size=size)
        prediction = network(views)
        assert prediction.grid == (2, *size)
        assert prediction.features.shape == (prediction.gaussians.num_gaussians, network.feature_dim)
        prediction.gaussians.check_finite()


@torch.no_grad()
def test_a_working_size_predicts_fewer_gaussians_that_leave_no_gaps():
    views, _ = wall_views(num_views=2, size=(64, 80))
    network = make_network(0.02, working_size=40)
    prediction, small = network(views), make_network(0.02)(reduced(views, 40))
    assert prediction.grid == (2, 32, 40)
    for name in ("means", "quats", "opacities", "sh0"):
        torch.testing.assert_close(getattr(prediction.gaussians, name), getattr(small.gaussians, name))
    pixels, far_behind = slice(0, 2 * 32 * 40), slice(2 * 32 * 40, None)
    torch.testing.assert_close(prediction.gaussians.scales[far_behind], small.gaussians.scales[far_behind])
    # At twice the size a quarter of the variance that drawing adds is left; the Gaussians bring the rest.
    depth = (small.gaussians.means @ views.cameras.viewmats[0, 2, :3] + views.cameras.viewmats[0, 2, 3])[:1280]
    pixel = depth[:, None] / reduced(views, 40).cameras.Ks[0, 0, 0]
    variance = (2 * small.gaussians.scales[:1280]).exp() + 0.3 * 0.75 * pixel.square()
    torch.testing.assert_close((2 * prediction.gaussians.scales[:1280]).exp(), variance, rtol=1e-3, atol=0)
    alphas = [render(g[pixels], views.cameras).alpha.mean() for g in (prediction.gaussians, small.gaussians)]
    assert alphas[0] > alphas[1] + 0.1


@torch.no_grad()
def test_a_working_size_that_is_no_smaller_changes_nothing():
    views, _ = wall_views(num_views=2)
    network, same = make_network(0.02), make_network(0.02, working_size=40)
    for a, b in zip(network(views).gaussians.leaves(), same(views).gaussians.leaves(), strict=True):
        assert torch.equal(a, b)
    assert reduced(views, None) is views
    with pytest.raises(ValueError, match="working_size"):
        CompactConfig(working_size=4)


def test_gradients_reach_every_parameter():
    views, _ = wall_views(num_views=2)
    network = make_network(0.02)
    prediction = network(views)
    sum(leaf.square().mean() for leaf in (*prediction.gaussians.leaves(), prediction.features)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if "matching.bias" not in name:
            assert parameter.grad.abs().max() > 0, name


def test_head_and_backbone_split_the_parameters():
    network = make_network()
    head = {id(p) for p in network.gaussian_head_parameters()}
    names = {name.split(".")[0] for name, p in network.named_parameters() if id(p) in head}
    assert names == {"decoder", "gaussian_head", "backdrop_head"}


def identical(views: Views) -> Views:
    viewmats = views.cameras.viewmats[:1].expand_as(views.cameras.viewmats).contiguous()
    return Views(views.images, Cameras(viewmats, views.cameras.Ks, 40, 32), views.near, views.far)


def backwards(views: Views) -> Views:
    """The second camera looks the other way: all points lie behind it."""
    viewmats = views.cameras.viewmats.clone()
    viewmats[1, [0, 2]] *= -1
    return Views(views.images, Cameras(viewmats, views.cameras.Ks, 40, 32), views.near, views.far)


def with_images(images: torch.Tensor, views: Views) -> Views:
    return Views(images, views.cameras, views.near, views.far)


HARD = {
    "identical cameras": identical,
    "camera looking away": backwards,
    "black": lambda v: with_images(torch.zeros_like(v.images), v),
    "white": lambda v: with_images(torch.ones_like(v.images), v),
    "near tiny": lambda v: Views(v.images, v.cameras, v.near * 1e-6, v.far),
    "far huge": lambda v: Views(v.images, v.cameras, v.near, v.far * 1e8),
    "range narrow": lambda v: Views(v.images, v.cameras, v.near, v.near * (1 + 1e-5)),
    "same image": lambda v: with_images(v.images[:1].expand_as(v.images).contiguous(), v),
    "mixed ranges": lambda v: Views(
        v.images, v.cameras, v.near * torch.tensor([1.0, 0.01]), v.far * torch.tensor([1.0, 5])
    ),
}


@pytest.mark.parametrize("kind", HARD)
def test_hard_input_gives_finite_output_and_gradients(kind):
    views = HARD[kind](wall_views(num_views=2)[0])
    network = make_network(0.02)
    prediction = network(views)
    prediction.gaussians.check_finite()
    assert prediction.features.isfinite().all()
    sum(leaf.square().mean() for leaf in (*prediction.gaussians.leaves(), prediction.features)).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_what_it_cannot_use_is_named():
    views, _ = wall_views()
    network = make_network()
    with pytest.raises(ValueError, match="at least two context views, got 1"):
        network(views[0])
    with pytest.raises(ValueError, match="depth range"):
        network(Views(views.images, views.cameras))
    with pytest.raises(ValueError, match="at least 8 pixels"):
        network(wall_views(size=(7, 40))[0])


def test_config_round_trip():
    yaml = pytest.importorskip("yaml")
    config = CompactConfig(num_depths=24, sh_degree=2)
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config
    assert isinstance(config.setup(), CompactBackbone)


def test_config_checks():
    for changes in ({"num_depths": 1}, {"sh_degree": 5}, {"matching_stride": 3}, {"opacity": 1.0}, {"footprint": 0.0}):
        with pytest.raises(ValueError, match=next(iter(changes)) if "opacity" not in changes else "opacity"):
            CompactConfig(**changes)


def test_sizes_of_the_presets():
    count = {c: sum(p.numel() for p in c().setup().parameters()) for c in (CompactConfig, tiny_config)}
    assert count[CompactConfig] < 5e6
    assert 0.2e6 < count[tiny_config] < 0.6e6


def test_rotations_of_the_world_turn_the_quaternions():
    views, _ = wall_views(num_views=2)
    prediction = make_network()(views)
    expected = rotations_to_quats(views.cameras.viewmats[:, :3, :3].transpose(1, 2))
    torch.testing.assert_close(prediction.gaussians.quats[: 2 * 32 * 40].view(2, -1, 4)[:, 7], expected)
