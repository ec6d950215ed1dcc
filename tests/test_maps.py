# SPDX-License-Identifier: Apache-2.0
"""Maps of uncertainty and of the error against a photograph (the module itself needs no nerfstudio)."""

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, Views, render
from ns_diff3r.maps import error_against, nearest_view, relative_uncertainty
from ns_diff3r.splats.painting import painted
from tests.scenes import make_scene


def wall(depth: float = 4.0, count: int = 40) -> Gaussians:
    """An opaque wall across the view, coloured by position."""
    side = torch.linspace(-5, 5, count, dtype=torch.float64)
    x, y = torch.meshgrid(side, side, indexing="xy")
    means = torch.stack([x, y, torch.full_like(x, depth)], dim=-1).reshape(-1, 3)
    quats = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).expand(len(means), 4)
    sizes = torch.tensor([[0.2, 0.2, 0.002]], dtype=torch.float64).expand(len(means), 3)
    colors = torch.stack(
        [(means[:, 0] + 5) / 10, (means[:, 1] + 5) / 10, (means[:, 0] * 1.7).sin() * 0.4 + 0.5], dim=-1
    )
    opacities = torch.full((len(means),), 0.95, dtype=torch.float64)
    return Gaussians.from_activated(means, quats, sizes, opacities, colors=colors)


def cameras(*shifts: float, size: int = 48) -> Cameras:
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(shifts), 1, 1)
    viewmats[:, 0, 3] = -torch.tensor(shifts, dtype=torch.float64)
    K = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(viewmats, K.repeat(len(shifts), 1, 1), size, size)


def test_a_scene_that_explains_the_photograph_has_no_error():
    views = cameras(0.0, 0.4)
    drawn = render(wall(), views)
    photograph = Views(drawn.rgb[1:].clamp(0, 1), views[1])
    error = error_against(photograph, views[0], drawn.rgb[0], drawn.depth[0], drawn.alpha[0])
    seen = error[:, 12:-12]  # what both cameras see
    assert seen.max() < 0.02
    wrong = error_against(photograph, views[0], drawn.rgb[0], 1.5 * drawn.depth[0], drawn.alpha[0])
    assert wrong[:, 12:-12].mean() > 5 * seen.mean()


def test_error_is_the_mean_absolute_difference_of_colours():
    view = cameras(0.0)
    drawn = render(wall(), view)
    photograph = Views((drawn.rgb + 0.1).clamp(0, 1), view)
    error = error_against(photograph, view, drawn.rgb[0], drawn.depth[0], drawn.alpha[0])
    expected = (photograph.images[0] - drawn.rgb[0]).abs().mean(-1, keepdim=True)
    torch.testing.assert_close(error, expected, atol=1e-6, rtol=0)


def test_what_the_photograph_cannot_show_has_no_error():
    views = cameras(0.0, 2.0)
    drawn = render(wall(), views)
    photograph = Views(torch.zeros_like(drawn.rgb[1:]), views[1])
    error = error_against(photograph, views[0], drawn.rgb[0], drawn.depth[0], drawn.alpha[0])
    assert (error[:, :20] == 0).all()  # left of the other camera's image
    assert (error[12:-12, 30:] > 0).all()
    behind = Views(torch.zeros_like(drawn.rgb[1:]), turned_round(views[1]))
    assert (error_against(behind, views[0], drawn.rgb[0], drawn.depth[0], drawn.alpha[0]) == 0).all()
    transparent = torch.zeros_like(drawn.alpha[0])
    assert (error_against(photograph, views[0], drawn.rgb[0], drawn.depth[0], transparent) == 0).all()


def turned_round(camera: Cameras) -> Cameras:
    half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    return Cameras(half_turn @ camera.viewmats, camera.Ks, camera.width, camera.height)


def test_the_nearest_view_counts_position_and_direction():
    views = cameras(0.0, 1.0, 2.0)
    assert nearest_view(views, cameras(1.2)) == 1
    assert nearest_view(views, cameras(1.8)) == 2
    turned = Cameras(torch.cat([views.viewmats[:2], turned_round(views[2]).viewmats]), views.Ks, 48, 48)
    assert nearest_view(turned, cameras(1.8)) == 1


def test_uncertainty_falls_with_lambda_and_fills_the_range():
    prior = {"means": torch.tensor([[1.0], [100.0], [10.0]]), "quats": torch.ones(3, 4)}
    values = relative_uncertainty(prior, "means")
    torch.testing.assert_close(values, torch.tensor([1.0, 0.0, 0.5]))
    assert (relative_uncertainty(prior, "quats") == 0.5).all()
    assert (relative_uncertainty({"shN": torch.ones(3, 0, 3)}, "shN") == 0.5).all()
    with pytest.raises(KeyError):
        relative_uncertainty(prior, "colour")


def test_painted_gaussians_are_drawn_in_grey():
    gaussians, views = make_scene(sh_degree=2, dtype=torch.float32)
    drawn = render(painted(gaussians, torch.full((gaussians.num_gaussians,), 0.25)), views)
    torch.testing.assert_close(drawn.rgb, (0.25 * drawn.alpha).expand_as(drawn.rgb), atol=1e-5, rtol=0)
