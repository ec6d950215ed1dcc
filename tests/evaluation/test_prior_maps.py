# SPDX-License-Identifier: Apache-2.0
"""Maps of λ, and pictures of captioned images."""

import numpy as np
import pytest
import torch
from PIL import Image

from ns_diff3r import Gaussians, render
from ns_diff3r.evaluation.picture_grid import BAR, GAP, LINE, Panel, PanelRow, save_picture_grid
from ns_diff3r.evaluation.prior_maps import BACKGROUND, COLOURS, coloured, strength_map
from tests.evaluation.test_visibility import blobs, cameras_at


def draw(gaussians: Gaussians) -> torch.Tensor:
    return render(gaussians, cameras_at(0.0)).rgb[0]


@pytest.fixture
def sides() -> Gaussians:
    """One large Gaussian to the left, one to the right; nothing in the corners."""
    return blobs([(-2.0, 0.0, 4.0), (2.0, 0.0, 4.0)], [0.7, 0.7])


def test_a_map_shows_values(sides):
    found = strength_map(sides, torch.tensor([[0.1], [1000.0]]), draw, (0.1, 1000.0))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.1, 1000.0))
    torch.testing.assert_close(found.image[32, 16], torch.tensor(COLOURS[0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.image[32, 48], torch.tensor(COLOURS[-1]), atol=1e-3, rtol=0)
    assert torch.equal(found.image[0, 0], torch.full((3,), BACKGROUND))
    half = strength_map(sides, torch.tensor([[10.0], [10.0]]), draw, (0.1, 1000.0))
    assert half is not None
    torch.testing.assert_close(half.image[32, 16], torch.tensor(COLOURS[len(COLOURS) // 2]), atol=1e-3, rtol=0)


def test_the_scale_is_that_of_what_is_shown(sides):
    three = blobs([(-2.0, 0.0, 4.0), (2.0, 0.0, 4.0), (0.0, 0.0, -4.0)], [0.7, 0.7, 0.7])  # one behind the camera
    found = strength_map(three, torch.tensor([[0.5], [8.0], [1e9]]), draw)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.5, 8.0), rel=0.02)


def test_one_value_everywhere_and_none_at_all(sides):
    found = strength_map(sides, torch.full((2, 1), 3.0), draw)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((3.0, 3.0))
    torch.testing.assert_close(found.image[32, 16], torch.tensor(COLOURS[len(COLOURS) // 2]))
    assert strength_map(sides, torch.ones(2, 0, 3), draw) is None


def test_several_parameters_are_shown_by_their_geometric_mean(sides):
    found = strength_map(sides, torch.tensor([[1.0, 100.0], [10.0, 10.0]]), draw)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((10.0, 10.0))


def test_colours_grow_lighter():
    light = coloured(torch.linspace(0, 1, 50)) @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert bool((light.diff() > 0).all())
    torch.testing.assert_close(coloured(torch.tensor([-1.0, 2.0])), torch.tensor([COLOURS[0], COLOURS[-1]]))


def test_pictures_are_where_they_should_be(tmp_path):
    images = [torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    rows = [PanelRow("one", [Panel(images[0], "a"), Panel(images[1], "b")]), PanelRow("two", [Panel(images[1])])]
    save_picture_grid(tmp_path / "grid.png", rows, min_height=30)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    height, width = 32, 48  # eight times
    assert picture.shape == (2 * (LINE + height + LINE + GAP), 2 * width + 3 * GAP, 3)
    for image, left, top in ((images[0], GAP, LINE), (images[1], 2 * GAP + width, LINE)):
        found = picture[top : top + height : 8, left : left + width : 8]
        assert np.array_equal(found, np.rint(image.numpy() * 255).astype(np.uint8))
    below = picture[LINE + height : 2 * LINE + height, GAP : GAP + width]
    assert below.min() < 128  # the caption


def test_a_scale_is_drawn_below(tmp_path):
    grey = torch.full((40, 40, 3), 0.5)
    save_picture_grid(tmp_path / "bar.png", [PanelRow("", [Panel(grey, "", (0.1, 10.0))])], min_height=40)
    picture = np.asarray(Image.open(tmp_path / "bar.png")).astype(float) / 255
    bar = picture[2 * LINE + 40 + BAR // 2, GAP : GAP + 40]
    np.testing.assert_allclose(bar, coloured(torch.linspace(0, 1, 40)).numpy(), atol=0.01)


def test_captions_do_not_run_into_the_next_image(tmp_path):
    image = torch.ones(40, 40, 3)
    panels = [Panel(image, "a very long caption indeed, too long"), Panel(image, "")]
    save_picture_grid(tmp_path / "long.png", [PanelRow("", panels)], min_height=40)
    picture = np.asarray(Image.open(tmp_path / "long.png"))
    assert picture[:, : GAP + 40].min() < 128
    assert picture[:, GAP + 40 + 1 :].min() == 255
