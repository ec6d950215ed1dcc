# SPDX-License-Identifier: Apache-2.0
"""Generated scenes: functions of seed and index, cameras that are exact, pictures that are antialiased."""

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from ns_diff3r import Gaussians
from ns_diff3r.data import GeneratedConfig, SceneError
from ns_diff3r.data.generated_settings import check_generated
from ns_diff3r.data.worlds.drawing import Drawable
from ns_diff3r.data.worlds.generation import DrawnFrame, generate_scene
from ns_diff3r.data.worlds.layouts import LAYOUTS
from ns_diff3r.data.worlds.materials import Material
from ns_diff3r.data.worlds.patterns import PATTERNS
from ns_diff3r.data.worlds.solids import Shape, first_hits
from ns_diff3r.data.worlds.splat_objects import place_splat, splat_objects
from ns_diff3r.data.worlds.textures import SIZE, TextureBank
from ns_diff3r.data.worlds.world import Light, World
from tests.splats.sog_writing import write_sog, zipped

SMALL = GeneratedConfig(num_textures=16, num_views=6)


@pytest.fixture(scope="module")
def scenes():
    """One scene of each kind."""
    return {kind: generate_scene(GeneratedConfig(num_textures=16, num_views=6, kinds=(kind,)), 5) for kind in LAYOUTS}


def draw(scene, view: int, size: tuple[int, int] = (48, 64)) -> tuple[Tensor, Float[Tensor, "H W"], Tensor, Tensor]:
    """Picture, depth, viewmat and K of a view."""
    cameras = scene.cameras([view], size=size)
    viewmat, K = cameras.viewmats[0], cameras.Ks[0]
    frame = scene.frames[view]
    assert isinstance(frame, DrawnFrame)
    assert isinstance(frame.world, Drawable)
    picture, depth = frame.world.draw(viewmat[:3, :3], cameras.centers[0], K, *size)
    return picture, depth, viewmat, K


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_kind_has_pictures_of_some_contrast_and_a_depth_range(scenes, kind):
    views = scenes[kind].views(range(6), size=(24, 32))
    assert views.images.shape == (6, 24, 32, 3)
    assert views.images.isfinite().all()
    assert (views.images >= 0).all()
    assert (views.images <= 1).all()
    assert views.images.std() > 0.05
    assert 0.2 < views.images.mean() < 0.7
    assert views.near is not None
    assert views.far is not None
    assert (views.near > 0).all()
    assert (views.far > views.near).all()


def test_a_scene_is_a_function_of_seed_and_index(scenes):
    first = generate_scene(SMALL, 3).views([0, 4], size=(16, 16))
    generate_scene(SMALL, 9).views([1], size=(8, 8))  # draws other textures meanwhile
    again = generate_scene(SMALL, 3).views([4, 0], size=(16, 16))
    assert torch.equal(first.images, again.images.flip(0))
    assert torch.equal(first.cameras.viewmats, again.cameras.viewmats.flip(0))
    assert not torch.equal(first.images, generate_scene(SMALL, 4).views([0, 4], size=(16, 16)).images)
    other = GeneratedConfig(seed=1, num_textures=16, num_views=6)
    assert not torch.equal(first.images, generate_scene(other, 3).views([0, 4], size=(16, 16)).images)


@pytest.mark.parametrize("size", [(48, 64), (40, 24)])
def test_pictures_are_those_of_the_cameras_that_views_have(scenes, size):
    for kind in ("room", "outdoors"):
        picture = draw(scenes[kind], 4, size)[0]
        assert (scenes[kind].views([4], size=size).images[0] - picture).abs().mean() < 1e-3


@pytest.mark.parametrize("kind", ["room", "tabletop", "facade"])
def test_views_agree_on_what_they_see(scenes, kind):
    """Points of one view, moved into the next by the cameras alone, lie on its surfaces or behind them."""
    _, depth, viewmat, K = draw(scenes[kind], 2)
    _, other_depth, other_viewmat, other_K = draw(scenes[kind], 3)
    y, x = torch.meshgrid(torch.arange(48.0) + 0.5, torch.arange(64.0) + 0.5, indexing="ij")
    local = torch.stack([(x - K[0, 2]) / K[0, 0] * depth, (y - K[1, 2]) / K[1, 1] * depth, depth]).reshape(3, -1)
    world = viewmat[:3, :3].T @ (local - viewmat[:3, 3:])
    moved = other_viewmat[:3, :3] @ world + other_viewmat[:3, 3:]
    pixels = (other_K @ moved)[:2] / moved[2]
    inside = (moved[2] > 0) & (pixels[0] > 1) & (pixels[0] < 63) & (pixels[1] > 1) & (pixels[1] < 47)
    column, row = pixels[:, inside].long()
    gap = other_depth[row, column] / moved[2, inside]
    assert inside.float().mean() > 0.2
    assert ((gap - 1).abs() < 0.05).float().mean() > 0.6  # the same surface
    assert (gap < 1.15).float().mean() > 0.95  # nothing is seen through a surface


@pytest.mark.parametrize("kind", ["room", "outdoors", "clutter"])
def test_solids_are_sought_where_they_are(scenes, kind):
    """The rectangles in which solids are tried lose no hit."""
    scene = scenes[kind]
    world = scene.frames[1].world
    _, depth, viewmat, K = draw(scene, 1)
    y, x = torch.meshgrid(torch.arange(48.0) + 0.5, torch.arange(64.0) + 0.5, indexing="ij")
    local = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)]).reshape(3, -1)
    center = scene.cameras([1], size=(48, 64)).centers[0]
    everywhere, _ = first_hits(world.solids, world.table, center[:, None], viewmat[:3, :3].T @ local)
    behind = depth.flatten() <= everywhere * 1.2 + 0.02  # the nearest of four rays; edges cover neighbours
    assert behind.float().mean() > 0.97


def test_small_pictures_are_averages_of_large_ones(scenes):
    for kind in ("room", "clutter", "outdoors"):
        small = scenes[kind].views([2], size=(24, 32)).images[0]
        large = scenes[kind].views([2], size=(192, 256)).images[0]
        average = large.view(24, 8, 32, 8, 3).mean((1, 3))
        assert (small - average).abs().mean() < 0.035
        assert (small - average).abs().mean() < 0.7 * (large[4::8, 4::8] - average).abs().mean()


def shaded_ball(specular: float, eye: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Light from points on the top of a ball towards a viewer, and from a point in its shadow on the ground."""
    bank = TextureBank(0, 1)
    world = World(np.random.default_rng(0), bank)
    look = Material(0, np.eye(2, 3), np.zeros((3, 3)), np.full(3, 0.5), specular, 20.0)
    bank.require(0)
    world.keep(look)
    world.add(Shape.BALL, np.array([0, 0, 1.0]), np.ones(3), 0)
    world.add(Shape.PLANE, np.zeros(3), np.ones(3), 0)
    world.light = Light(np.array([0.0, 0.0, 9.0]), 0.1, np.ones(3), np.inf)
    drawable = Drawable(world)
    points = torch.tensor([[0.0, 0.0, 2.0], [0.3, 0.0, 1 + 0.91**0.5], [0.4, 0.0, 0.0], [3.0, 0.0, 0.0]]).T
    rays = points - torch.tensor(eye)[:, None]
    which = torch.tensor([0, 0, 1, 1])
    light = drawable.shade(which, points, rays, torch.ones(4), 1e-3, torch.full((4,), -1))
    return light[:, :2], light[:, 2:]


def test_highlights_move_with_the_viewer_and_matt_surfaces_do_not_change():
    above, aside = (0.0, 0.0, 6.0), (4.0, 0.0, 3.0)
    assert torch.allclose(shaded_ball(0.0, above)[0], shaded_ball(0.0, aside)[0], atol=1e-5)
    difference = (shaded_ball(0.8, above)[0] - shaded_ball(0.8, aside)[0])[0]
    assert difference[0] > 0.1  # the mirror's direction is that of the viewer above
    ground = shaded_ball(0.0, above)[1]
    assert ground[0, 0] < 0.5 * ground[0, 1]  # beneath the ball, and out of its shadow


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_pictures_and_depend_on_their_seed(name):
    image = PATTERNS[name](np.random.default_rng(1), 64)
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert np.array_equal(image, PATTERNS[name](np.random.default_rng(1), 64))
    assert not np.array_equal(image, PATTERNS[name](np.random.default_rng(2), 64))


def test_textures_repeat_and_are_as_coarse_as_the_pixel():
    bank = TextureBank(0, 4)
    bank.require(2)
    which, u = torch.full((50,), 2), torch.linspace(0, 1, 50)
    v, fine = 0.37 * torch.ones(50), torch.full((50,), 1 / SIZE)
    here = bank.lookup(which, u, v, fine)
    assert torch.allclose(here, bank.lookup(which, u + 3, v - 2, fine), atol=2e-3)
    coarse = bank.lookup(which, u, v, torch.ones(50))
    assert (coarse - torch.from_numpy(bank.mean(2)).float()).abs().max() < 0.25
    assert coarse.std(dim=0).mean() < 0.5 * here.std(dim=0).mean()


def ball_of_gaussians(folder) -> None:
    """A splat, stored y-down: a small red ball of Gaussians half a unit below (y = 0.5) a blue one."""
    g = torch.Generator().manual_seed(0)
    means = 0.05 * torch.randn(400, 3, generator=g)
    means[:, 1] += torch.where(torch.arange(400) < 200, 0.5, 0.0)
    colors = torch.where((torch.arange(400) < 200)[:, None], torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    gaussians = Gaussians.from_activated(
        means,
        torch.tensor([[1.0, 0, 0, 0]]).repeat(400, 1),
        torch.full((400, 3), 0.03),
        torch.full((400,), 0.9),
        colors=colors,
    )
    gaussians.save_ply(folder / "ball.ply")


def test_trained_splats_stand_upright_where_they_are_put(tmp_path):
    ball_of_gaussians(tmp_path)
    (splat,) = splat_objects(tmp_path)
    placed = place_splat(np.random.default_rng(0), splat, np.array([1.0, 2.0, 0.0]), 1.0)
    # A camera in front of the place that looks along +y, z up.
    rotation = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    center, K = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])
    black, far = torch.zeros(32, 32, 3), torch.full((32, 32), 10.0)
    picture = placed.over(black, far, rotation, center, K)
    rows = torch.arange(32.0)[:, None].expand(32, 32)
    red, blue = picture[..., 0], picture[..., 2]
    assert red.sum() > 5
    assert (red * rows).sum() / red.sum() > (blue * rows).sum() / blue.sum() + 3  # red is below
    assert abs((red * rows.T).sum() / red.sum() + 0.5 - 16) < 1
    hidden = placed.over(black, torch.full((32, 32), 1.0), rotation, center, K)
    assert hidden.max() == 0
    points = placed.points(50).points
    assert np.abs(points[:, 2] - 0.5).max() < 0.7
    assert np.abs(points[:, :2] - [1.0, 2.0]).max() < 0.5


def test_a_folder_of_splats_may_hold_sogs(tmp_path):
    ball_of_gaussians(tmp_path)
    gaussians = Gaussians.load(tmp_path / "ball.ply")
    write_sog(tmp_path / "other", gaussians[:100], version=2)
    zipped(tmp_path / "other", tmp_path / "third.sog")
    (tmp_path / "notes").mkdir()
    assert [splat.gaussians.num_gaussians for splat in splat_objects(tmp_path)] == [400, 100, 100]


def test_scenes_with_splats_have_them(tmp_path):
    ball_of_gaussians(tmp_path)
    config = GeneratedConfig(num_textures=16, num_views=4, splats=tmp_path, splat_share=1.0)
    scene = generate_scene(config, 0)
    frame = scene.frames[0]
    assert isinstance(frame, DrawnFrame)
    assert frame.splat is not None
    assert torch.equal(
        scene.views([1], size=(16, 16)).images, generate_scene(config, 0).views([1], size=(16, 16)).images
    )
    with pytest.raises(SceneError, match="no trained splats there"):
        generate_scene(GeneratedConfig(splats=tmp_path / "absent"), 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ("room", "moon")}, "no kind 'moon'"),
        ({"num_scenes": 0}, "generated.num_scenes must be at least 1"),
        ({"splat_share": 1.5}, "splat_share must lie in"),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(SceneError, match=message):
        check_generated(GeneratedConfig(**values))
