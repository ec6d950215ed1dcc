# SPDX-License-Identifier: Apache-2.0
"""Parts of DepthSplat, each against a plain second way to compute it; what two views alone do not show."""

import pytest
import torch

from ns_diff3r.backbones.depthsplat.matching_transformer import (
    BLOCKED,
    WindowAttention,
    shifted_window_mask,
    window_positions,
)
from ns_diff3r.backbones.depthsplat.plane_sweep import cost_volume, other_views
from ns_diff3r.backbones.depthsplat.regressor import CostUNet, CrossViewAttention
from ns_diff3r.backbones.depthsplat.wiring import Wiring
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.backbones.official_views import stirred


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def poses(count: int) -> torch.Tensor:
    """Camera-to-world matrices, not on a line."""
    matrices = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    quats = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64) + 0.1 * random_tensor(count, 4, seed=1)
    matrices[:, :3, :3] = quats_to_rotations(quats)
    matrices[:, :3, 3] = 0.4 * random_tensor(count, 3, seed=2)
    return matrices


def test_up_to_three_views_all_others_are_matched_in_their_order():
    assert other_views(poses(2), 2).tolist() == [[1], [0]]
    assert other_views(poses(3), 2).tolist() == [[1, 2], [0, 2], [0, 1]]


def test_more_views_are_matched_with_the_nearest():
    matrices = torch.eye(4).repeat(5, 1, 1)
    matrices[:, 0, 3] = torch.tensor([0.0, 1.0, 2.5, 4.5, 100.0])
    assert other_views(matrices, 2).tolist() == [[1, 2], [0, 2], [1, 3], [2, 1], [3, 2]]
    matrices[1] = matrices[0]  # two cameras at one place: a view is never matched with itself
    assert all(view not in others for view, others in enumerate(other_views(matrices, 2).tolist()))


def test_the_mask_blocks_what_shifting_brought_together():
    height, width = 8, 12
    mask = shifted_window_mask(height, width, torch.zeros(()))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shifted = [grid.roll((-2, -3), (0, 1)) for grid in (rows, columns)]
    for window in range(4):
        top, left = 4 * (window // 2), 6 * (window % 2)
        r, c = (grid[top : top + 4, left : left + 6].reshape(-1) for grid in shifted)
        # Neighbours after shifting were neighbours before, unless one of them came around the border.
        together = ((r[:, None] < 2) == (r < 2)) & ((c[:, None] < 3) == (c < 3)) if window == 3 else None
        if window == 1:
            together = (c[:, None] < 3) == (c < 3)
        if window == 2:
            together = (r[:, None] < 2) == (r < 2)
        blocked = mask[window] == BLOCKED
        expected = torch.zeros_like(blocked) if together is None else ~together
        assert torch.equal(blocked, expected)


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("num_targets", [1, 2, 3])
def test_window_attention_key_by_key(shifted, num_targets):
    """Keys position by position, the mask view by view: as the official code has them."""
    layer = WindowAttention(8, shifted, feed_forward=False).double()
    stirred(layer, 0.3)
    source, targets = random_tensor(2, 4, 6, 8), random_tensor(2, num_targets, 4, 6, 8, seed=4)
    mask = shifted_window_mask(4, 6, source)
    actual = layer(source, targets, mask)
    shift = (1, 1) if shifted else (0, 0)  # half of 2, half of 3
    q, k, v = layer.q_proj(source), layer.k_proj(targets), layer.v_proj(targets)
    message = torch.empty_like(source)
    for view in range(2):
        for window in range(4):
            top, left = 2 * (window // 2), 3 * (window % 2)
            places = [
                ((top + i + shift[0]) % 4, (left + j + shift[1]) % 6, p)
                for p, (i, j) in enumerate((i, j) for i in range(2) for j in range(3))
            ]
            for row, column, place in places:
                logits, values = [], []
                for y, x, _ in places:
                    for target in range(num_targets):
                        logit = q[view, row, column] @ k[view, target, y, x] / 8**0.5
                        logits.append(logit + (mask[window, place, len(logits) % 6] if shifted else 0))
                        values.append(v[view, target, y, x])
                weights = torch.stack(logits).softmax(0)
                message[view, row, column] = (weights[:, None] * torch.stack(values)).sum(0)
    torch.testing.assert_close(actual, source + layer.norm1(layer.merge(message)))


def test_positions_repeat_in_every_window():
    embedding = window_positions(torch.zeros(1, 128, 8, 12))
    assert embedding.shape == (128, 8, 12)
    for axis, half in ((1, 4), (2, 6)):
        first, second = embedding.split(half, dim=axis)
        assert torch.equal(first, second)
    rows, columns = embedding[:64, :, 0], embedding[64:, 0]
    assert torch.equal(embedding[:64], rows[:, :, None].expand(-1, -1, 12))
    assert torch.equal(embedding[64:], columns[:, None].expand(-1, 8, -1))
    angle = torch.tensor(2 * torch.pi * 3 / 4)
    torch.testing.assert_close(embedding[:2, 2, 0], torch.stack([angle.sin(), angle.cos()]), rtol=0, atol=1e-5)


def test_costs_pixel_by_pixel():
    """Every candidate of every pixel projected by itself, sampled by hand."""
    features, camera_to_world = random_tensor(3, 4, 5, 7), poses(3)
    others = other_views(camera_to_world, 2)
    Ks = torch.tensor([[6.0, 0, 3.2], [0, 6.0, 2.1], [0, 0, 1]], dtype=torch.float64).repeat(3, 1, 1)
    Ks[1, 0, 0] = 5.0
    depths = torch.tensor([1.5, 4.0], dtype=torch.float64).view(1, 2, 1, 1).expand(3, -1, -1, -1)
    actual = cost_volume(features, others, camera_to_world, Ks, depths)
    assert actual.shape == (3, 2, 5, 7)
    expected = torch.zeros_like(actual)
    for view in range(3):
        for index in range(2):
            other = int(others[view, index])
            relative = torch.linalg.inv(camera_to_world[other]) @ camera_to_world[view]
            for level in range(2):
                for y in range(5):
                    for x in range(7):
                        ray = torch.linalg.inv(Ks[view]) @ torch.tensor([x, y, 1.0], dtype=torch.float64)
                        point = relative[:3, :3] @ ray * depths[view, level][0, 0] + relative[:3, 3]
                        seen = Ks[view] @ point  # the view's own intrinsics, also for the other view
                        u, v = (float(seen[axis] / seen[2]) for axis in (0, 1))
                        value = sampled(features[other], u, v)
                        expected[view, level, y, x] += features[view, :, y, x] @ value / 4**0.5 / 2
    torch.testing.assert_close(actual, expected)


def sampled(maps: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear, zero outside."""
    left, top = int(torch.tensor(x).floor()), int(torch.tensor(y).floor())
    total = torch.zeros(len(maps), dtype=maps.dtype)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]:
            total += (1 - abs(x - column)) * (1 - abs(y - row)) * maps[:, row, column]
    return total


def test_costs_have_the_same_gradient_with_and_without_a_checkpoint():
    features = random_tensor(2, 4, 5, 7).requires_grad_()
    camera_to_world = poses(2)
    Ks = torch.tensor([[6.0, 0, 3.2], [0, 6.0, 2.1], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
    depths = torch.tensor([1.5, 4.0], dtype=torch.float64).view(1, 2, 1, 1).expand(2, -1, -1, -1)
    others = other_views(camera_to_world, 2)
    assert torch.autograd.gradcheck(lambda f: cost_volume(f, others, camera_to_world, Ks, depths), features)


@torch.no_grad()
def test_attention_of_the_regressor_sees_all_views():
    layer = CrossViewAttention(32)
    stirred(layer, 0.2)
    x = torch.randn(3, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    changed = x.clone()
    changed[2] = changed[2].flip(0)
    assert (layer(changed)[0] - before[0]).abs().max() > 1e-4
    torch.testing.assert_close(layer(x[[2, 0, 1]]), before[[2, 0, 1]])


@torch.no_grad()
@pytest.mark.parametrize("num_levels", [3, 4])
def test_the_regressor_keeps_the_size(num_levels):
    network = CostUNet(64, num_levels)
    assert network(torch.zeros(2, 64, 8, 16)).shape == (2, 64, 8, 16)


def test_wirings_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="not \\(8, 2\\)"):
        Wiring("vits", upsample_factor=8, num_scales=2)
    with pytest.raises(ValueError, match="not 'huge'"):
        Wiring.of_release("huge", "re10k")  # pyright: ignore[reportArgumentType]
    assert Wiring.of_weights({"something": (3,)}) is None
    assert {(w.lowest, w.stride) for w in (Wiring("vits", 4, 1), Wiring("vits", 2, 2))} == {(4, 16)}
    assert {(w.lowest, w.stride) for w in (Wiring("vits", 8, 1), Wiring("vits", 4, 2))} == {(8, 32)}
