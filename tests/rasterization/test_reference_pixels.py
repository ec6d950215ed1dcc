# SPDX-License-Identifier: Apache-2.0
"""The oracle against a second implementation: a loop over tiles, pixels and Gaussians in plain numbers."""

import math

import numpy as np
import pytest
import torch

from ns_diff3r.rasterization.config import PRESETS, resolve_preset
from ns_diff3r.rasterization.reference import plan_reference, render_reference
from ns_diff3r.splats import Gaussians
from tests.scenes import SCENE_KINDS, make_scene

BACKGROUND = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def sh_basis(direction):
    """Degree 0 to 2 from their textbook forms."""
    x, y, z = direction
    root = math.sqrt
    return np.array(
        [
            0.5 / root(math.pi),
            *(root(0.75 / math.pi) * np.array([-y, z, -x])),
            0.5 * root(15 / math.pi) * x * y,
            -0.5 * root(15 / math.pi) * y * z,
            0.25 * root(5 / math.pi) * (3 * z * z - 1),
            -0.5 * root(15 / math.pi) * x * z,
            0.25 * root(15 / math.pi) * (x * x - y * y),
        ]
    )


def rotation_of(quat):
    """The matrix whose columns are q e q* for the three axes."""

    def multiply(a, b):
        scalar = a[0] * b[0] - a[1:] @ b[1:]
        return np.concatenate([[scalar], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])])

    quat = quat / np.linalg.norm(quat)
    conjugate = quat * np.array([1, -1, -1, -1])
    return np.stack([multiply(multiply(quat, np.concatenate([[0], e])), conjugate)[1:] for e in np.eye(3)], axis=-1)


def splat(scene, i, viewmat, K, size, config):
    """Gaussian i on the screen: i, z, mean, conic, opacity, colour, columns and rows of tiles; None if it is culled."""
    height, width = size
    mean, quat, scale, logit, sh = (leaf[i] for leaf in scene)
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    x, y, z = R @ mean + t
    if z < config.near_plane or z > config.far_plane:
        return None
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    u, v = fx * x / (z + config.perspective_epsilon) + cx, fy * y / (z + config.perspective_epsilon) + cy
    half_x, half_y = width / fx / 2, height / fy / 2
    if config.clamp == "gsplat":
        bounds_x = -cx / fx - 0.3 * half_x, (width - cx) / fx + 0.3 * half_x
        bounds_y = -cy / fy - 0.3 * half_y, (height - cy) / fy + 0.3 * half_y
    else:
        bounds_x, bounds_y = (-1.3 * half_x, 1.3 * half_x), (-1.3 * half_y, 1.3 * half_y)
    tx, ty = z * min(max(x / z, bounds_x[0]), bounds_x[1]), z * min(max(y / z, bounds_y[0]), bounds_y[1])
    J = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
    M = J @ R @ rotation_of(quat) @ np.diag(np.exp(scale))
    sharp = M @ M.T
    blurred = sharp + config.eps2d * np.eye(2)
    det = np.linalg.det(blurred)
    conic = np.linalg.inv(blurred)
    opacity = 1 / (1 + math.exp(-logit))
    if config.antialiased:
        opacity *= math.sqrt(max(config.min_compensation, np.linalg.det(sharp) / det))
    if config.extent == "circular":
        b = (blurred[0, 0] + blurred[1, 1]) / 2
        rx = ry = math.ceil(3 * math.sqrt(b + math.sqrt(max(config.eigenvalue_floor, b * b - det))))
    else:
        if opacity < config.alpha_min:
            return None
        sigmas = min(3.33, math.sqrt(2 * math.log(255 * opacity)))
        rx, ry = math.ceil(sigmas * math.sqrt(blurred[0, 0])), math.ceil(sigmas * math.sqrt(blurred[1, 1]))
    if max(rx, ry) <= config.radius_clip:
        return None
    if config.tile_offset == 0:
        if u + rx <= 0 or u - rx >= width or v + ry <= 0 or v - ry >= height:
            return None
        columns = range(max(0, math.floor((u - rx) / 16)), math.ceil((u + rx) / 16))
        rows = range(max(0, math.floor((v - ry) / 16)), math.ceil((v + ry) / 16))
    else:
        p, q = u - 0.5, v - 0.5
        columns = range(max(0, math.floor((p - rx) / 16)), math.floor((p + rx + 15) / 16))
        rows = range(max(0, math.floor((q - ry) / 16)), math.floor((q + ry + 15) / 16))
    columns = range(columns.start, min(columns.stop, math.ceil(width / 16)))
    rows = range(rows.start, min(rows.stop, math.ceil(height / 16)))
    if not columns or not rows:
        return None
    direction = mean + R.T @ t
    color = np.maximum(sh_basis(direction / np.linalg.norm(direction))[: len(sh)] @ sh + 0.5, 0)
    return i, z, (u, v), conic, opacity, color, columns, rows


def render_slowly(gaussians, cameras, config, background):
    scene = [leaf.numpy() for leaf in gaussians.leaves()[:4]]
    scene.append(torch.cat([gaussians.sh0, gaussians.shN], dim=1).numpy())
    size = cameras.height, cameras.width
    result, lists = np.zeros((cameras.num_views, *size, 5)), []
    for view, (viewmat, K) in enumerate(zip(cameras.viewmats.numpy(), cameras.Ks.numpy(), strict=True)):
        splats = [splat(scene, i, viewmat, K, size, config) for i in range(gaussians.num_gaussians)]
        splats = sorted((s for s in splats if s is not None), key=lambda s: s[1])  # stable
        lists.append([(s[0], s[6].start, s[7].start, s[6].stop, s[7].stop) for s in splats])
        for row, column in np.ndindex(size):
            result[view, row, column] = pixel(splats, row, column, config, background)
    return result, lists


def pixel(splats, row, column, config, background):
    T, rgb, weight, depth = 1.0, np.zeros(3), 0.0, 0.0
    for _, z, (u, v), conic, opacity, color, columns, rows in splats:
        if column // 16 not in columns or row // 16 not in rows:
            continue
        d = np.array([u - column - 0.5, v - row - 0.5])
        sigma = 0.5 * d @ conic @ d
        alpha = min(config.alpha_max, opacity * math.exp(-sigma))
        if sigma < 0 or alpha < 1 / 255:
            continue
        if T * (1 - alpha) <= 1e-4:
            break
        rgb, weight, depth = rgb + T * alpha * color, weight + T * alpha, depth + T * alpha * z
        T *= 1 - alpha
    return *(rgb + T * background), weight, depth / max(weight, 1e-10)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_equals_pixel_loop(kind, preset, antialiased):
    config = resolve_preset(preset, antialiased)
    gaussians, cameras = make_scene(kind, sh_degree=2, num_gaussians=14, num_views=2, size=(19, 34))
    slow, lists = render_slowly(gaussians, cameras, config, BACKGROUND.numpy())
    ours = render_reference(gaussians, cameras, config, BACKGROUND)
    assert (slow[..., 3] > 0).any(), "an empty scene shows nothing"
    np.testing.assert_allclose(ours.rgb, slow[..., :3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.alpha, slow[..., 3:4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.depth, slow[..., 4:], rtol=1e-11, atol=1e-12)
    for plan, expected in zip(plan_reference(gaussians, cameras, config), lists, strict=True):
        assert torch.cat([plan.drawn.order[:, None], plan.drawn.tiles], dim=-1).tolist() == [list(e) for e in expected]


def test_the_tile_border_scene_tells_the_presets_apart():
    gaussians, cameras = make_scene("tile_border")
    images = [render_reference(gaussians, cameras, PRESETS[name]).alpha for name in PRESETS]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (images[first] - images[second]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_scenes_contain_what_they_are_named_for(kind):
    gaussians, cameras = make_scene(kind)
    config = PRESETS["gsplat-1.4.0"]
    drawn = plan_reference(gaussians, cameras, config)[0]
    pairs = drawn.pairs[0]
    depths = gaussians.means @ cameras.viewmats[0, 2, :3] + cameras.viewmats[0, 2, 3]
    transmittance = 1 - render_reference(gaussians, cameras, config).alpha[0]
    checks = {
        "behind": lambda: (depths < 0).sum() >= 2 and ((depths > 0.01) & (depths < 0.2)).any(),
        "transparent": lambda: 0 < drawn.drawn.order[pairs.contributes.any(0)].numel() < gaussians.num_gaussians / 2,
        "opaque": lambda: (pairs.capped & pairs.contributes).any(),
        "stack": lambda: transmittance.min() < 1e-3,
        "beyond_clamp": lambda: (drawn.screen.below | drawn.screen.above)[pairs.contributes.any(0)].any(),
        "dark": lambda: not drawn.screen.lit.all(),
        "ties": lambda: (depths[0::2] == depths[1::2]).all(),
    }
    assert pairs.contributes.any()
    assert checks.get(kind, lambda: True)()


def test_nothing_in_view_shows_the_background():
    gaussians, cameras = make_scene("generic")
    behind = Gaussians(gaussians.means - 100 * cameras.viewmats[0, 2, :3], *gaussians.leaves()[1:])
    rendering = render_reference(behind, cameras[0], PRESETS["gsplat-1.4.0"], BACKGROUND)
    assert (rendering.rgb == BACKGROUND).all()
    assert (rendering.alpha == 0).all()
    assert (rendering.depth == 0).all()


def test_background_per_view_and_its_shape():
    gaussians, cameras = make_scene("generic")
    config = PRESETS["gsplat-1.4.0"]
    colors = torch.stack([BACKGROUND, 1 - BACKGROUND])
    both = render_reference(gaussians, cameras, config, colors).rgb
    for view in range(2):
        assert torch.equal(both[view], render_reference(gaussians, cameras[view], config, colors[view]).rgb[0])
    with pytest.raises(ValueError, match=r"background must be \[3\] or \[2, 3\]"):
        render_reference(gaussians, cameras, config, torch.zeros(3, 3))


def test_mixed_dtypes_are_refused():
    gaussians, cameras = make_scene("generic")
    with pytest.raises(ValueError, match="differ"):
        render_reference(gaussians.to(dtype=torch.float32), cameras, PRESETS["gsplat-1.4.0"])


def test_float32_scenes_render_in_float32():
    gaussians, cameras = make_scene("generic")
    exact = render_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"]).rgb
    single = render_reference(*make_scene("generic", dtype=torch.float32), PRESETS["gsplat-1.4.0"]).rgb
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-5


def test_pixel_groups_change_nothing(monkeypatch):
    gaussians, cameras = make_scene("generic")
    whole = render_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"], BACKGROUND)
    monkeypatch.setattr("ns_diff3r.rasterization.reference.PAIRS_AT_ONCE", 1000)
    parts = render_reference(gaussians, cameras, PRESETS["gsplat-1.4.0"], BACKGROUND)
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-14)
