# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from ns_diff3r.rasterization.config import PRESETS, RasterizationConfig, resolve_preset


def test_default_is_gsplat_140():
    assert PRESETS["gsplat-1.4.0"] == RasterizationConfig()


def test_presets_differ_in_the_documented_constants():
    gsplat, newer, inria = (PRESETS[name] for name in ("gsplat-1.4.0", "gsplat-1.5.3", "inria"))
    assert (gsplat.alpha_max, gsplat.near_plane, gsplat.extent, gsplat.eigenvalue_floor) == (
        0.999,
        0.01,
        "circular",
        0.01,
    )
    assert dataclasses.replace(newer, extent="circular") == gsplat
    assert inria.alpha_max == pytest.approx(0.99, abs=1e-7)
    assert (inria.near_plane, inria.eigenvalue_floor, inria.gradient_through_cap) == (0.2, 0.1, True)
    assert (inria.clamp, inria.tile_offset, inria.perspective_epsilon) == ("inria", 0.5, 1e-7)
    for config in PRESETS.values():
        assert (config.alpha_min, config.transmittance_min, config.eps2d, config.tile_size) == (1 / 255, 1e-4, 0.3, 16)


def test_two_capped_pairs_end_an_inria_pixel_in_single_and_double_precision():
    config = PRESETS["inria"]
    assert (1.0 - config.alpha_max) ** 2 < config.transmittance_min


@pytest.mark.parametrize("name", PRESETS)
def test_resolve(name):
    assert resolve_preset(name) is PRESETS[name]
    assert resolve_preset(name, antialiased=True) == dataclasses.replace(PRESETS[name], antialiased=True)
    config = resolve_preset(name, antialiased=True)
    assert resolve_preset(config) is config  # False leaves the config's own setting


def test_unknown_preset_lists_the_names():
    with pytest.raises(ValueError, match=r"'gsplat-9'.*'gsplat-1.4.0', 'gsplat-1.5.3', 'inria'"):
        resolve_preset("gsplat-9")


@pytest.mark.parametrize(
    "field",
    [
        {"alpha_max": 1.0},
        {"alpha_min": 0.0},
        {"transmittance_min": 1.0},
        {"near_plane": 0.0},
        {"near_plane": 2.0, "far_plane": 1.0},
        {"eps2d": -0.1},
        {"radius_clip": float("nan")},
        {"tile_size": 0},
        {"extent": "square"},
        {"clamp": "none"},
    ],
)
def test_senseless_values_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        RasterizationConfig(**field)
