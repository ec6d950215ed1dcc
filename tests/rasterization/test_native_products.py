# SPDX-License-Identifier: Apache-2.0
"""Every product of the native backend against the oracle's, in float64."""

import pytest
import torch

from ns_diff3r import Gaussians
from ns_diff3r.rasterization import PRESETS
from ns_diff3r.splats import GROUPS
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    EVERYTHING,
    WindowOperator,
    assert_same_groups,
    assert_same_image,
    make_pair,
    many_gaussians,
    only,
    pair,
)
from tests.scenes import make_scene

TOLERANCE = 1e-10


@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_products(kind, preset, antialiased):
    check_products(pair(kind, preset, antialiased))


def check_products(case):
    pushed = case.oracle.jvp(case.v)
    assert_same_image(case.native.jvp(case.v), pushed, TOLERANCE, "jvp")
    assert_same_groups(case.native.vjp(case.u), case.oracle.vjp(case.u), TOLERANCE)
    expected = case.oracle.vjp(case.weights * pushed)  # the oracle's own gauss_newton, without another jvp
    assert_same_groups(case.native.gauss_newton(case.v, case.weights), expected, TOLERANCE)
    second_order = case.oracle.vjp_tangent(case.v, case.u, case.du)
    assert_same_groups(case.native.vjp_tangent(case.v, case.u, case.du), second_order, TOLERANCE)
    twist, expected = case.native.vjp_cameras(case.u), case.oracle.vjp_cameras(case.u)
    for view in range(case.cameras.num_views):
        assert_same_image(twist[view, :3], expected[view, :3], TOLERANCE, "translation")
        assert_same_image(twist[view, 3:], expected[view, 3:], TOLERANCE, "rotation")


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("kind", ["generic", "dark", "beyond_clamp"])
@pytest.mark.parametrize("degree", range(5))
def test_every_sh_degree(degree, kind, antialiased):
    check_products(pair(kind, "gsplat-1.4.0", antialiased, sh_degree=degree, num_gaussians=8))


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("preset", PRESETS)
def test_tangents_of_one_group(preset, name):
    """A wrong sign or a missing term of a small group hides in a sum over all groups."""
    case = pair("stack", preset, antialiased=True)
    v = only(case.v, name)
    assert_same_image(case.native.jvp(v), case.oracle.jvp(v), TOLERANCE, name)
    zero = torch.zeros_like(case.u)
    assert_same_groups(case.native.vjp_tangent(v, case.u, zero), case.oracle.vjp_tangent(v, case.u, zero), TOLERANCE)


@pytest.mark.parametrize("num_views", [1, 3])
def test_numbers_of_views(num_views):
    gaussians, cameras = make_scene("generic", 2, 8, num_views, (21, 37))
    check_products(make_pair(gaussians, cameras, background=torch.rand(num_views, 3, dtype=torch.float64)))


@pytest.mark.parametrize("num_gaussians", [1, 15, 16, 17, 33])
def test_counts_around_the_width_of_a_vector(num_gaussians):
    check_products(make_pair(*make_scene("huge", 1, num_gaussians, size=(19, 27)), background=BACKGROUNDS))


def test_more_gaussians_than_one_work_item():
    case = make_pair(*many_gaussians(), background=BACKGROUNDS)
    assert case.native.statistics["records"] > 20
    check_products(case)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (17, 33)])
def test_image_sizes(size):
    check_products(make_pair(*make_scene("huge", 1, 6, size=size), background=BACKGROUNDS))


@pytest.mark.parametrize("kind", ["generic", "opaque"])
def test_gauss_newton_with_an_operator(kind):
    case = pair(kind)
    operator = WindowOperator(case.cameras)
    expected = case.oracle.gauss_newton(case.v, operator)
    assert_same_groups(case.native.gauss_newton(case.v, operator), expected, TOLERANCE)
    assert_same_groups(case.native.diagonal(operator), case.native.diagonal(operator.diagonal().contiguous()), 0.0)
    blocks, expected = case.native.blocks(operator), case.native.blocks(operator.diagonal().contiguous())
    assert torch.equal(blocks.geometry, expected.geometry)
    assert torch.equal(blocks.sh, expected.sh)


def test_gaussians_that_do_not_show_have_zero_products():
    """Work memory comes uninitialised: what no pixel writes must be zero, not what lay there before."""
    case = make_pair(*many_gaussians(), background=BACKGROUNDS)
    hidden = ~case.native.visible
    blocks = case.native.blocks(case.weights)
    for vector in (
        case.native.vjp(case.u),
        case.native.gauss_newton(case.v, case.weights),
        case.native.diagonal(case.weights),
        case.native.vjp_tangent(case.v, case.u, case.du),
    ):
        for name, leaf in vector.items():
            assert not leaf[hidden].any(), name
    assert not blocks.geometry[hidden].any()
    assert not blocks.sh[hidden].any()


def test_a_scene_that_nobody_sees_has_zero_products():
    gaussians, cameras = make_scene("generic", size=(19, 27))
    behind = Gaussians(gaussians.means - torch.tensor([0.0, 0.0, 50.0]), *gaussians.leaves()[1:])
    case = make_pair(behind, cameras, background=BACKGROUNDS)
    assert not case.native.visible.any()
    assert not case.native.jvp(case.v).any()
    assert not case.native.vjp_cameras(case.u).any()
    for vector in (
        case.native.vjp(case.u),
        case.native.gauss_newton(case.v, case.weights),
        case.native.diagonal(case.weights),
        case.native.vjp_tangent(case.v, case.u, case.du),
    ):
        assert not vector.flatten().any()
