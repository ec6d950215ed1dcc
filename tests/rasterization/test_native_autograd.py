# SPDX-License-Identifier: Apache-2.0
"""Reverse mode through `render` on the native backend: against the oracle's autograd and against differences."""

import weakref

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, linearize, render
from ns_diff3r.splats import GROUPS
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    EVERYTHING,
    PRESETS_AND_MODES,
    SIZE,
    along,
    assert_same_groups,
    assert_same_image,
    only,
)
from tests.scenes import SCENE_KINDS, dot, make_scene, random_images, random_tangent

TOLERANCE = 1e-10
IMAGES = ("rgb", "alpha", "depth")


def cotangents(cameras, names=IMAGES, dtype=torch.float64):
    images = {name: random_images(cameras, seed, dtype) for seed, name in enumerate(IMAGES)}
    return {name: images[name] if name == "rgb" else images[name][..., :1].clone() for name in names}


def gradients(gaussians, cameras, backend, preset="gsplat-1.4.0", antialiased=False, images=IMAGES, background=None):
    """With respect to all leaves, the view matrices and the backgrounds."""
    leaves = gaussians.map(torch.clone).requires_grad_()
    viewmats = cameras.viewmats.clone().requires_grad_()
    colors = (BACKGROUNDS if background is None else background).clone().requires_grad_()
    moved = Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)
    rendering = render(leaves, moved, preset, colors, antialiased, backend)
    value = sum((getattr(rendering, name) * u).sum() for name, u in cotangents(cameras, images).items())
    inputs = (*leaves.leaves(), viewmats, colors)
    *leaf_gradients, v_viewmats, v_colors = torch.autograd.grad(value, inputs, materialize_grads=True)
    return Gaussians(*leaf_gradients), v_viewmats, v_colors


def assert_same_gradients(value, expected):
    assert_same_groups(value[0], expected[0], TOLERANCE)
    for view in range(len(expected[1])):
        for name, entries in (("rotation", (slice(3), slice(3))), ("translation", (slice(3), 3))):
            assert_same_image(value[1][view][entries], expected[1][view][entries], TOLERANCE, name)
    assert not value[1][:, 3].any()
    assert_same_image(value[2], expected[2], TOLERANCE, "background")


@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_all_inputs_against_the_oracle(kind, preset, antialiased):
    gaussians, cameras = make_scene(kind, sh_degree=2, num_gaussians=12, size=SIZE)
    value, expected = (gradients(gaussians, cameras, b, preset, antialiased) for b in ("native", "reference"))
    assert_same_gradients(value, expected)


@pytest.mark.parametrize("images", [("rgb",), ("alpha",), ("depth",), ("rgb", "depth"), ("alpha", "depth")])
@pytest.mark.parametrize("kind", ["generic", "opaque", "transparent"])
def test_every_image_by_itself(kind, images):
    gaussians, cameras = make_scene(kind, sh_degree=1, num_gaussians=12, size=SIZE)
    value, expected = (gradients(gaussians, cameras, b, images=images) for b in ("native", "reference"))
    assert_same_gradients(value, expected)


def test_one_background_for_all_views():
    gaussians, cameras = make_scene("generic", num_gaussians=12, size=SIZE)
    color = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64)
    value, expected = (gradients(gaussians, cameras, b, background=color) for b in ("native", "reference"))
    assert value[2].shape == (3,)
    assert_same_gradients(value, expected)


@pytest.mark.parametrize(
    ("kind", "semantics"), [(kind, PRESETS_AND_MODES[i % 6]) for i, kind in enumerate(SCENE_KINDS)]
)
def test_frozen_render_against_central_differences(kind, semantics):
    """The gradient of the live render is that of the frozen one, whose differences are smooth."""
    gaussians, cameras = make_scene(kind, sh_degree=2, num_gaussians=12, size=SIZE)
    preset, antialiased = semantics
    leaves = gaussians.map(torch.clone).requires_grad_()
    u = cotangents(cameras)
    frozen = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased, freeze="pairs")

    def value(rendering):
        return sum((getattr(rendering, name) * u[name]).sum() for name in IMAGES)

    gradient = torch.autograd.grad(value(render(leaves, cameras, preset, BACKGROUNDS, antialiased)), leaves.leaves())
    replayed = torch.autograd.grad(value(frozen.render(leaves)), leaves.leaves())
    assert_same_groups(Gaussians(*replayed), Gaussians(*gradient), 1e-12)
    step = 1e-6 if kind == "behind" else 1e-4  # next to the camera plane little moves far
    for name, leaf in zip(GROUPS, gradient, strict=True):
        tangent = only(random_tangent(gaussians, 5), name)

        def at(amount, tangent=tangent):
            return value(frozen.render(along(gaussians, amount, tangent)))

        difference = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
        slope = dot(Gaussians(*gradient), tangent)
        scale = float(leaf.norm() * tangent.flatten().norm()) / leaf.numel() ** 0.5
        assert abs(float(difference) - slope) < 1e-6 * scale + 1e-9, name


def test_only_what_needs_a_gradient_gets_one():
    gaussians, cameras = make_scene("generic", size=SIZE)
    leaves = gaussians.map(torch.clone)
    leaves.quats.requires_grad_()
    render(leaves, cameras, background=BACKGROUNDS).rgb.sum().backward()
    assert leaves.quats.grad is not None
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != "quats")
    assert cameras.viewmats.grad is None


def test_gradients_flow_on_and_accumulate():
    gaussians, cameras = make_scene("generic", size=SIZE)
    u = random_images(cameras)
    expected = linearize(gaussians, cameras).vjp(u)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    moved = Gaussians(gaussians.means + shift, *gaussians.leaves()[1:])
    rendering = render(moved, cameras)
    for repetition in (1, 2):
        (rendering.rgb * u).sum().backward(retain_graph=True)
        torch.testing.assert_close(shift.grad, repetition * expected.means.sum(0), rtol=1e-12, atol=0)


def test_mixed_precision_of_inputs():
    """Every input gets its gradient in its own dtype."""
    gaussians, cameras = make_scene("generic", size=SIZE)
    single = gaussians.to(dtype=torch.float32).requires_grad_()
    viewmats, background = cameras.viewmats.clone().requires_grad_(), BACKGROUNDS.clone().requires_grad_()
    rendering = render(single, Cameras(viewmats, cameras.Ks, cameras.width, cameras.height), background=background)
    assert rendering.rgb.dtype == torch.float32
    rendering.rgb.square().sum().backward()
    assert single.means.grad.dtype == torch.float32
    assert viewmats.grad.dtype == background.grad.dtype == torch.float64
    expected = linearize(gaussians, cameras, background=BACKGROUNDS).vjp_cameras(2 * rendering.rgb.detach().double())
    assert_same_image(viewmats.grad[:, :3, 3], expected[:, :3], 1e-4)


def test_without_gradients_nothing_is_recorded():
    gaussians, cameras = make_scene("generic", size=SIZE)
    expected = render(gaussians, cameras).rgb
    assert not expected.requires_grad
    leaves = gaussians.map(torch.clone).requires_grad_()
    with torch.no_grad():
        rgb = render(leaves, cameras).rgb
    assert not rgb.requires_grad
    assert torch.equal(rgb, expected)
    with torch.inference_mode():
        assert torch.equal(render(leaves, cameras).rgb, expected)
    assert torch.equal(render(leaves, cameras).rgb, expected)


def test_a_leaf_changed_in_place_is_noticed():
    gaussians, cameras = make_scene("generic", size=SIZE)
    leaves = gaussians.map(torch.clone).requires_grad_()
    for name in GROUPS:
        rendering = render(leaves, cameras)
        with torch.no_grad():
            getattr(leaves, name).add_(0.1)
        with pytest.raises(RuntimeError, match="inplace"):
            rendering.rgb.sum().backward()


def test_second_derivatives_are_refused_not_wrong():
    gaussians, cameras = make_scene("generic", size=SIZE)
    leaves = gaussians.map(torch.clone).requires_grad_()
    (gradient,) = torch.autograd.grad(render(leaves, cameras).rgb.square().sum(), leaves.means, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("with_backward", [False, True])
def test_a_rendering_is_freed_with_its_last_name(with_backward):
    """Nothing that its node holds refers back to it: such a cycle passes through C++ and would never be collected."""
    gaussians, cameras = make_scene("generic", 1, 8, 1, SIZE)
    rendering = render(gaussians.map(torch.clone).requires_grad_(), cameras)
    if with_backward:
        rendering.rgb.sum().backward()
    images = [weakref.ref(getattr(rendering, name)) for name in IMAGES]
    del rendering
    assert all(image() is None for image in images)


def test_images_can_be_changed_in_place():
    gaussians, cameras = make_scene("generic", 1, 8, 1, SIZE)
    gradients = []
    for change in (lambda x: x, lambda x: x.mul_(1.0).add_(5.0)):
        leaves = gaussians.map(torch.clone).requires_grad_()
        rendering = render(leaves, cameras)
        sum(change(getattr(rendering, name)).sum() for name in IMAGES).backward()
        gradients.append([leaf.grad for leaf in leaves.leaves()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
