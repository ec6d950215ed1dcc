# SPDX-License-Identifier: Apache-2.0
"""What the native backend draws, against the oracle."""

import pytest
import torch

from ns_diff3r import linearize, render
from ns_diff3r.rasterization import PRESETS
from tests.rasterization.native_cases import BACKGROUNDS, EVERYTHING, assert_same_image, many_gaussians, pair
from tests.scenes import make_scene, random_images

TOLERANCE = 1e-12


def assert_same_rendering(gaussians, cameras, *semantics, **options):
    value = render(gaussians, cameras, *semantics, backend="native", **options)
    expected = render(gaussians, cameras, *semantics, backend="reference", **options)
    for name in ("rgb", "alpha", "depth"):
        assert_same_image(getattr(value, name), getattr(expected, name), TOLERANCE, name)
    return value


@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_images_and_visibility(kind, preset, antialiased):
    case = pair(kind, preset, antialiased)
    expected = case.oracle.render(case.gaussians)
    for name in ("rgb", "alpha", "depth"):
        assert_same_image(getattr(case.native.rendering, name), getattr(expected, name), TOLERANCE, name)
    assert torch.equal(case.native.visible, case.oracle.visible)
    assert case.native.visible.any(), "nothing shows: the comparison says nothing"
    assert case.native.rgb is case.native.rendering.rgb


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (17, 33), (16, 16), (4, 64), (3, 5)])
def test_image_sizes(size):
    gaussians, cameras = make_scene("huge", size=size, num_gaussians=6)
    assert_same_rendering(gaussians, cameras, background=BACKGROUNDS)


@pytest.mark.parametrize("degree", range(5))
def test_sh_degrees(degree):
    assert_same_rendering(*make_scene("dark", sh_degree=degree, num_views=3, size=(19, 27)))


@pytest.mark.parametrize("background", [None, [0.3, 0.2, 0.1], BACKGROUNDS[0], BACKGROUNDS])
def test_backgrounds(background):
    gaussians, cameras = make_scene("transparent", size=(19, 27))
    rendering = render(gaussians, cameras, background=background)
    colors = torch.as_tensor([0.0, 0.0, 0.0] if background is None else background, dtype=torch.float64)
    assert_same_image(rendering.rgb, render(gaussians, cameras, background=colors, backend="reference").rgb, TOLERANCE)
    empty = rendering.alpha[..., 0] == 0
    assert empty.any()
    assert torch.equal(rendering.rgb[empty], colors.expand(2, 3)[:, None, None].expand_as(rendering.rgb)[empty])


@pytest.mark.parametrize("num_gaussians", [1, 15, 16, 17, 33])
def test_counts_around_the_width_of_a_vector(num_gaussians):
    gaussians, cameras = make_scene("huge", num_gaussians=num_gaussians, size=(19, 27))
    rendering = assert_same_rendering(gaussians, cameras)
    assert (rendering.alpha > 0).any()


def test_more_gaussians_than_one_work_item():
    """Visible ones on both sides of the boundary at 1024, in another order than their depths."""
    gaussians, cameras = many_gaussians()
    rendering = assert_same_rendering(gaussians, cameras, background=BACKGROUNDS)
    assert (rendering.alpha > 0).any()
    native, oracle = (linearize(gaussians, cameras, backend=backend) for backend in ("native", "reference"))
    assert torch.equal(native.visible, oracle.visible)
    assert native.visible[:1024].any()
    assert native.visible[1024:].any()


@pytest.mark.parametrize("preset", PRESETS)
def test_views_that_show_nothing_are_background(preset):
    gaussians, cameras = make_scene("generic", size=(19, 27))
    viewmats = cameras.viewmats.clone()
    viewmats[1, 2, 3] -= 100.0  # everything is behind the second camera
    blind = type(cameras)(viewmats, cameras.Ks, cameras.width, cameras.height)
    rendering = assert_same_rendering(gaussians, blind, preset, background=BACKGROUNDS)
    assert rendering.alpha[0].any()
    assert not rendering.alpha[1].any()
    assert not rendering.depth[1].any()
    assert torch.equal(rendering.rgb[1], BACKGROUNDS[1].expand_as(rendering.rgb[1]))


def test_no_gaussians_are_background():
    """A scene that was pruned to nothing is drawn like one that nobody sees."""
    gaussians, cameras = make_scene("generic", size=(19, 27))
    rendering = render(gaussians[:0], cameras, background=BACKGROUNDS)
    assert torch.equal(rendering.rgb, BACKGROUNDS[:, None, None].expand_as(rendering.rgb))
    assert not rendering.alpha.any()
    linearization = linearize(gaussians[:0], cameras, background=BACKGROUNDS)
    assert linearization.visible.shape == (0,)
    assert not linearization.jvp(gaussians[:0]).any()
    assert not linearization.vjp_cameras(torch.ones_like(rendering.rgb)).any()
    assert linearization.vjp(torch.ones_like(rendering.rgb)).num_gaussians == 0
    assert linearization.blocks(torch.ones_like(rendering.rgb)).geometry.shape == (0, 11, 11)


def test_cameras_may_have_another_dtype():
    gaussians, cameras = make_scene("generic", size=(19, 27))
    single = gaussians.to(dtype=torch.float32)
    assert torch.equal(render(single, cameras).rgb, render(single, cameras.to(dtype=torch.float64)).rgb)
    assert render(single, cameras).rgb.dtype == torch.float32
    assert_same_image(render(gaussians, cameras.to(dtype=torch.float32)).rgb, render(gaussians, cameras).rgb, 1e-5)


def test_leaves_need_not_be_contiguous():
    gaussians, cameras = make_scene("generic", size=(19, 27))
    strided = gaussians.map(lambda leaf: torch.stack([leaf, leaf], dim=-1)[..., 0])
    assert not strided.means.is_contiguous()
    assert torch.equal(render(strided, cameras).rgb, render(gaussians, cameras).rgb)
    image = random_images(cameras)
    linearization = linearize(gaussians, cameras)
    channels_first = image.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(linearization.vjp(channels_first).flatten(), linearization.vjp(image).flatten())
    assert torch.equal(linearization.jvp(strided), linearization.jvp(gaussians))
