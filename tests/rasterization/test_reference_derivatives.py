# SPDX-License-Identifier: Apache-2.0
"""The oracle's derivatives against finite differences of its own frozen function, and against each other."""

import pytest
import torch

from ns_diff3r.rasterization.config import PRESETS, resolve_preset
from ns_diff3r.rasterization.reference import plan_reference, render_reference
from ns_diff3r.rasterization.reference_linearization import linearize_reference
from ns_diff3r.splats import GROUPS, Cameras, Gaussians
from tests.scenes import SCENE_KINDS, dot, make_scene, random_images, random_tangent

BACKGROUND = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
EVERYTHING = [(preset, antialiased) for preset in PRESETS for antialiased in (False, True)]


def small_scene(kind, sh_degree=1, num_views=2):
    return make_scene(kind, sh_degree=sh_degree, num_gaussians=12, num_views=num_views, size=(19, 34))


def only(tangent, name):
    """The part of a tangent in one group."""
    return Gaussians(**{group: leaf if group == name else torch.zeros_like(leaf) for group, leaf in tangent.items()})


def along(gaussians, step, tangent):
    return gaussians.combine(lambda x, v: x + step * v, tangent)


def central_difference(function, step):
    """Derivative of function(ε) at 0 to fourth order in the step."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def relative_error(value, expected):
    return float((value - expected).norm() / expected.norm().clamp_min(1e-6))


def steps(kind):
    """A Gaussian next to the camera plane moves far on the image; large ones differ little between steps."""
    return 1e-6 if kind == "behind" else 2e-4


@pytest.mark.parametrize(("preset", "antialiased"), EVERYTHING)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_jvp_is_the_finite_difference_of_the_frozen_render(kind, preset, antialiased):
    gaussians, cameras = small_scene(kind)
    config = resolve_preset(preset, antialiased)
    linearization = linearize_reference(gaussians, cameras, config, BACKGROUND, freeze="pairs")
    torch.testing.assert_close(linearization.render(gaussians).rgb, linearization.rgb, rtol=0, atol=0)
    for name in GROUPS:
        tangent = only(random_tangent(gaussians, seed=1), name)
        differences = central_difference(
            lambda step, tangent=tangent: linearization.render(along(gaussians, step, tangent)).rgb, steps(kind)
        )
        pushed = linearization.jvp(tangent)
        assert pushed.norm() > 1e-6, f"{name} does not show: the comparison says nothing"
        assert relative_error(pushed, differences) < 1e-6, name


@pytest.mark.parametrize(("preset", "antialiased"), EVERYTHING)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_vjp_is_adjoint_to_jvp(kind, preset, antialiased):
    gaussians, cameras = small_scene(kind)
    linearization = linearize_reference(gaussians, cameras, resolve_preset(preset, antialiased), BACKGROUND)
    u, v = random_images(cameras), random_tangent(gaussians)
    pushed = linearization.jvp(v)
    difference = float((u * pushed).sum()) - dot(linearization.vjp(u), v)
    assert abs(difference) < 1e-13 * float(u.norm() * pushed.norm())


@pytest.mark.parametrize(("preset", "antialiased"), EVERYTHING)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_autograd_of_the_live_render_is_the_vjp(kind, preset, antialiased):
    """Taking the branches anew or replaying them gives one gradient, straight-through at the cap for "inria"."""
    gaussians, cameras = small_scene(kind)
    config = resolve_preset(preset, antialiased)
    u = random_images(cameras)
    leaves = gaussians.map(torch.clone).requires_grad_()
    rgb = render_reference(leaves, cameras, config, BACKGROUND).rgb
    gradients = torch.autograd.grad((rgb * u).sum(), leaves.leaves())
    expected = linearize_reference(gaussians, cameras, config, BACKGROUND).vjp(u)
    for gradient, leaf in zip(gradients, expected.leaves(), strict=True):
        torch.testing.assert_close(gradient, leaf, rtol=1e-9, atol=1e-12 * float(u.norm()))


@pytest.mark.parametrize(("preset", "antialiased"), EVERYTHING)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_camera_twist_is_the_finite_difference(kind, preset, antialiased):
    gaussians, cameras = small_scene(kind, sh_degree=3)
    config = resolve_preset(preset, antialiased)
    u = random_images(cameras)
    gradient = linearize_reference(gaussians, cameras, config, BACKGROUND).vjp_cameras(u)
    plan = plan_reference(gaussians, cameras, config)
    for component in range(6):

        def per_view(step, component=component):
            moved = Cameras(rigid(component, step) @ cameras.viewmats, cameras.Ks, cameras.width, cameras.height)
            return (render_reference(gaussians, moved, config, BACKGROUND, plan).rgb * u).sum((1, 2, 3))

        differences = central_difference(per_view, steps(kind))
        assert (gradient[:, component] - differences).abs().max() < 1e-6 * gradient.abs().max()


def rigid(component, amount):
    """exp(ξ^) for a twist along one axis: three translations, then three rotations, written out."""
    matrix = torch.eye(4, dtype=torch.float64)
    if component < 3:
        matrix[component, 3] = amount
        return matrix
    first, second = (component - 2) % 3, (component - 1) % 3  # the rotation takes axis `first` towards `second`
    angle = torch.tensor(amount, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = angle.cos()
    matrix[second, first], matrix[first, second] = angle.sin(), -angle.sin()
    return matrix


@pytest.mark.parametrize("degree", range(5))
def test_every_sh_degree(degree):
    """Every degree, by the coefficients and by the direction that moving the mean changes."""
    gaussians, cameras = small_scene("generic", sh_degree=degree)
    config = PRESETS["gsplat-1.4.0"]
    linearization = linearize_reference(gaussians, cameras, config, BACKGROUND, freeze="pairs")
    for name in ("means", "sh0", "shN"):
        if name == "shN" and degree == 0:
            continue
        tangent = only(random_tangent(gaussians, seed=2), name)
        differences = central_difference(
            lambda step, tangent=tangent: linearization.render(along(gaussians, step, tangent)).rgb, 2e-4
        )
        assert relative_error(linearization.jvp(tangent), differences) < 1e-7


@pytest.mark.parametrize("name", ["alpha", "depth"])
@pytest.mark.parametrize("preset", PRESETS)
def test_alpha_and_depth_are_differentiable(name, preset):
    gaussians, cameras = small_scene("generic")
    config = resolve_preset(preset)
    plan = plan_reference(gaussians, cameras, config)
    leaves = gaussians.map(torch.clone).requires_grad_()
    u = random_images(cameras)[..., :1]

    def value(point):
        return (getattr(render_reference(point, cameras, config, plan=plan), name) * u).sum()

    gradient = Gaussians(*torch.autograd.grad(value(leaves), leaves.leaves(), materialize_grads=True))
    tangent = random_tangent(gaussians)
    differences = central_difference(lambda step: value(along(gaussians, step, tangent)), 2e-4)
    assert float(differences) == pytest.approx(dot(gradient, tangent), rel=1e-7)


def test_gradient_to_the_background():
    gaussians, cameras = small_scene("generic")
    background = BACKGROUND.clone().requires_grad_()
    rendering = render_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"], background)
    (gradient,) = torch.autograd.grad(rendering.rgb.sum(), background)
    torch.testing.assert_close(gradient, (1 - rendering.alpha).sum().expand(3))


def test_capped_alpha_has_no_gradient_in_gsplat_and_a_straight_one_in_inria():
    """One opaque Gaussian, one pixel on its centre."""
    gaussians, cameras = make_scene("opaque", num_gaussians=3, num_views=1)
    one = gaussians[:1]
    u = torch.zeros(1, cameras.height, cameras.width, 3, dtype=torch.float64)
    opacity = {}
    for preset in ("gsplat-1.4.0", "inria"):
        config = PRESETS[preset]
        plan = plan_reference(one, cameras, config)
        pixel = int((plan[0].pairs[0].capped & plan[0].pairs[0].contributes).nonzero()[0, 0])
        u.view(-1, 3)[:] = 0
        u.view(-1, 3)[pixel] = 1
        opacity[preset] = float(linearize_reference(one, cameras, config).vjp(u).opacities)
    assert opacity["gsplat-1.4.0"] == 0
    assert opacity["inria"] != 0


@pytest.mark.parametrize(("preset", "antialiased"), EVERYTHING)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_vjp_tangent_is_the_finite_difference_of_the_vjp(kind, preset, antialiased):
    gaussians, cameras = small_scene(kind)
    config = resolve_preset(preset, antialiased)
    v, u, du = random_tangent(gaussians), random_images(cameras, 1), random_images(cameras, 2)
    linearization = linearize_reference(gaussians, cameras, config, BACKGROUND, freeze="pairs")

    def vjp_at(step):
        leaves = along(gaussians, step, v).requires_grad_()
        gradients = torch.autograd.grad((linearization.render(leaves).rgb * (u + step * du)).sum(), leaves.leaves())
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    tangent = linearization.vjp_tangent(v, u, du)
    assert relative_error(tangent.flatten(), central_difference(vjp_at, steps(kind))) < 1e-6


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["generic", "stack", "opaque", "beyond_clamp"])
def test_vjp_tangent_is_autograd_of_autograd(kind, preset):
    gaussians, cameras = small_scene(kind)
    config = resolve_preset(preset, antialiased=True)
    v, u = random_tangent(gaussians), random_images(cameras, 1)
    leaves = gaussians.map(torch.clone).requires_grad_()
    plan = plan_reference(gaussians, cameras, config)
    value = (render_reference(leaves, cameras, config, BACKGROUND, plan).rgb * u).sum()
    first = Gaussians(*torch.autograd.grad(value, leaves.leaves(), create_graph=True))
    slope = sum((g * t).sum() for g, t in zip(first.leaves(), v.leaves(), strict=True))
    second = Gaussians(*torch.autograd.grad(slope, leaves.leaves(), materialize_grads=True))
    tangent = linearize_reference(gaussians, cameras, config, BACKGROUND).vjp_tangent(v, u, torch.zeros_like(u))
    assert relative_error(tangent.flatten(), second.flatten()) < 1e-11


@pytest.mark.parametrize("preset", PRESETS)
def test_hessian_of_a_squared_error_is_symmetric(preset):
    gaussians, cameras = small_scene("generic")
    linearization = linearize_reference(gaussians, cameras, resolve_preset(preset), BACKGROUND)
    residual = linearization.rgb - random_images(cameras).sigmoid()
    v, w = random_tangent(gaussians, 1), random_tangent(gaussians, 2)

    def hessian(x):
        return linearization.vjp_tangent(x, 2 * residual, 2 * linearization.jvp(x))

    assert dot(w, hessian(v)) == pytest.approx(dot(v, hessian(w)), rel=1e-10)


class WindowOperator:
    """Symmetric, positive semi-definite, not diagonal: neighbouring columns mix, W = Bᵀ D B."""

    def __init__(self, cameras):
        size = cameras.width
        band = torch.eye(size, dtype=torch.float64) + 0.4 * torch.eye(size, dtype=torch.float64).roll(1, 0)
        self.matrix = band.T @ torch.diag(torch.linspace(0.5, 2, size, dtype=torch.float64)) @ band

    def __call__(self, images):
        return torch.einsum("ij,vhjc->vhic", self.matrix, images)

    def diagonal(self):
        raise AssertionError("not needed by a product")


def test_gauss_newton_with_weights_and_with_an_operator():
    gaussians, cameras = small_scene("generic")
    linearization = linearize_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"], BACKGROUND)
    v, w = random_tangent(gaussians, 1), random_tangent(gaussians, 2)
    weights = random_images(cameras) ** 2
    for W, apply in ((weights, lambda x: weights * x), (operator := WindowOperator(cameras), operator)):
        product = linearization.gauss_newton(v, W)
        pushed = linearization.jvp(v)
        assert dot(v, product) == pytest.approx(float((pushed * apply(pushed)).sum()), rel=1e-12)
        assert dot(w, product) == pytest.approx(dot(v, linearization.gauss_newton(w, W)), rel=1e-10)


@pytest.mark.parametrize("degree", [0, 2])
def test_diagonal_and_blocks_are_entries_of_the_product(degree):
    gaussians, cameras = make_scene("generic", sh_degree=degree, num_gaussians=3, num_views=2, size=(10, 17))
    linearization = linearize_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"], BACKGROUND)
    weights = random_images(cameras) ** 2
    unit = torch.eye(gaussians.num_parameters, dtype=torch.float64)
    matrix = torch.stack([linearization.gauss_newton(gaussians.unflatten(e), weights).flatten() for e in unit])
    scale = {"rtol": 1e-9, "atol": 1e-12 * float(matrix.abs().max())}
    torch.testing.assert_close(linearization.diagonal(weights).flatten(), matrix.diagonal(), **scale)
    blocks = linearization.blocks(weights)
    numbers = gaussians.unflatten(torch.arange(len(unit), dtype=torch.float64))  # where a parameter lies in the vector
    for i in range(gaussians.num_gaussians):
        geometry = torch.cat([numbers.means[i], numbers.quats[i], numbers.scales[i], numbers.opacities[i, None]]).long()
        torch.testing.assert_close(blocks.geometry[i], matrix[geometry][:, geometry], **scale)
        for channel in range(3):
            sh = torch.cat([numbers.sh0[i, :, channel], numbers.shN[i, :, channel]]).long()
            torch.testing.assert_close(blocks.sh[i, channel], matrix[sh][:, sh], **scale)


def test_frozen_order_keeps_the_order_and_nothing_else():
    """Two overlapping layers swap depths: live, the colours swap; with the frozen order they do not."""
    gaussians, cameras = make_scene("stack", num_gaussians=8, num_views=1)
    config = PRESETS["gsplat-1.4.0"]
    away = torch.zeros_like(gaussians.means)
    front = plan_reference(gaussians, cameras, config)[0].drawn.order[0]
    away[front] = 3.0 * cameras.viewmats[0, 2, :3]
    dimmer = gaussians.opacities - 2.0
    moved = Gaussians(gaussians.means + away, gaussians.quats, gaussians.scales, dimmer, gaussians.sh0, gaussians.shN)
    live = render_reference(moved, cameras, config).rgb
    order = linearize_reference(gaussians, cameras, config, freeze="order").render(moved).rgb
    pairs = linearize_reference(gaussians, cameras, config, freeze="pairs").render(moved).rgb
    assert (live - order).abs().max() > 1e-3
    assert (order - pairs).abs().max() > 1e-3  # fewer pairs pass the threshold and more are reached before the end
    plan = plan_reference(gaussians, cameras, config, "order")
    assert plan[0].pairs is None
    torch.testing.assert_close(order, render_reference(moved, cameras, config, plan=plan).rgb, rtol=0, atol=0)


def test_unknown_freeze_is_refused():
    with pytest.raises(ValueError, match="freeze"):
        linearize_reference(*small_scene("generic"), PRESETS["gsplat-1.4.0"], freeze="everything")


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_visible_gaussians_are_those_with_a_derivative(kind):
    gaussians, cameras = small_scene(kind)
    linearization = linearize_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"])
    gradient = linearization.vjp(random_images(cameras)).sh0.flatten(1).abs().amax(1)
    lit = torch.stack([p.screen.lit.any() for p in plan_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"])]).any()
    assert lit
    assert not (gradient > 0)[~linearization.visible].any()
    if kind != "dark":
        assert torch.equal(gradient > 0, linearization.visible)
