# SPDX-License-Identifier: Apache-2.0
"""Which backend draws: by the tensors' device and by name, and what is said where that cannot be."""

import logging
import sys
import types
from dataclasses import replace

import pytest
import torch

from ns_diff3r import extension, linearize, render
from ns_diff3r.rasterization import PRESETS, resolve_preset
from ns_diff3r.rasterization import gsplat as gsplat_backend
from ns_diff3r.rasterization.cuda import CudaPlan
from tests.cuda.cuda_cases import PLACES, dtypes_at, require
from tests.rasterization.native_cases import BACKGROUNDS, assert_same_image
from tests.scenes import make_scene, random_images


@pytest.fixture
def installed(monkeypatch):
    """Pretends that some version of gsplat is installed; forgets it and what was loaded."""

    def pretend(version: str | None) -> None:
        monkeypatch.setattr(gsplat_backend, "installed_version", lambda: version)

    gsplat_backend.load.cache_clear()
    yield pretend
    gsplat_backend.load.cache_clear()


@pytest.mark.parametrize("backend", ["cuda", "gsplat"])
def test_device_backends_refuse_cpu_tensors(backend):
    gaussians, cameras = make_scene(size=(8, 8))
    for call in (render, linearize):
        with pytest.raises(ValueError, match="draws on CUDA devices; the Gaussians are on cpu"):
            call(gaussians, cameras, backend=backend)


def test_precision_of_a_device():
    with pytest.raises(TypeError, match=r"computes in float32, not torch\.float64"):
        CudaPlan(torch.float64, torch.device("cuda"))


def test_without_cuda_kernels(monkeypatch):
    """The message says how to get them."""
    monkeypatch.setitem(sys.modules, "ns_diff3r._cuda", None)
    extension.cuda.cache_clear()
    with pytest.raises(ImportError, match=r"nvcc \(11.8 or newer\)"):
        extension.cuda()


def test_description_says_why(monkeypatch):
    monkeypatch.setattr(extension, "has_cuda", lambda: False)
    assert "built without CUDA kernels" in extension.describe()
    monkeypatch.setattr(extension, "has_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no device" in extension.describe()


@pytest.mark.parametrize(("version", "preset"), [("1.4.0", "gsplat-1.4.0"), ("1.5.3", "gsplat-1.5.3")])
def test_gsplat_draws_its_own_preset_only(installed, version, preset):
    installed(version)
    gsplat_backend.check_preset(resolve_preset(preset, antialiased=True))
    gsplat_backend.check_preset(replace(PRESETS[preset], near_plane=0.2))
    for name, config in PRESETS.items():
        if name != preset:
            with pytest.raises(ValueError, match=f'draws the preset "{preset}" and no other'):
                gsplat_backend.check_preset(config)


@pytest.mark.parametrize(("version", "message"), [(None, "not installed"), ("1.3.0", "implements none of our presets")])
def test_gsplat_of_another_version(installed, version, message):
    installed(version)
    with pytest.raises(ValueError, match=message):
        gsplat_backend.check_preset(PRESETS["gsplat-1.4.0"])


def test_a_gsplat_that_does_not_build_is_one_warning(installed, monkeypatch, caplog):
    def failing(**_):
        raise RuntimeError("No CUDA toolkit found")

    monkeypatch.setitem(sys.modules, "gsplat", types.SimpleNamespace(rasterization=failing))
    with caplog.at_level(logging.WARNING):
        assert gsplat_backend.load() is None
        assert gsplat_backend.load() is None
    assert len(caplog.records) == 1
    assert "the native backend draws instead" in caplog.text


def test_what_gsplat_is_given():
    gaussians, cameras = make_scene("generic", 2, 5, 2, (8, 12))
    given = {}

    def draw(**arguments):
        given.update(arguments)
        return torch.ones(2, 8, 12, 4), torch.full((2, 8, 12, 1), 0.25), {}

    config = resolve_preset("gsplat-1.5.3", antialiased=True)
    rendering = gsplat_backend.render_gsplat(gaussians, cameras, config, BACKGROUNDS, draw)
    assert given["colors"].shape == (5, 9, 3)
    assert given["rasterize_mode"] == "antialiased"
    torch.testing.assert_close(given["scales"], gaussians.scales.exp())
    torch.testing.assert_close(rendering.rgb[1, 0, 0], 1 + 0.75 * BACKGROUNDS[1])
    assert rendering.depth.shape == (2, 8, 12, 1)


@pytest.mark.parametrize("place", PLACES[1:])
def test_gsplat_agrees(place):
    """Values and gradients, away from thresholds: opacities far from 1/255 and from the cap."""
    require(place)
    version = gsplat_backend.installed_version()
    if version not in gsplat_backend.VERSIONS:
        pytest.skip("gsplat 1.4.0 or 1.5.3 is not installed")
    if gsplat_backend.load() is None:
        pytest.skip("gsplat does not build here")
    gaussians, cameras = make_scene("huge", 1, 12, 2, (40, 48))
    gaussians.opacities[:] = gaussians.opacities.clamp(-1.0, 1.0)
    gaussians, cameras = gaussians.to(dtype=dtypes_at(place)[0], device=place), cameras.to(device=place)
    u = random_images(cameras, 0, torch.float32)
    results = {}
    for backend in ("cuda", "gsplat"):
        point = gaussians.detach().map(torch.clone).requires_grad_()
        rendering = render(point, cameras, gsplat_backend.VERSIONS[version], BACKGROUNDS, backend=backend)
        gradient = torch.autograd.grad((rendering.rgb * u).sum(), point.leaves())
        results[backend] = (rendering.rgb.detach(), *gradient)
    for value, expected in zip(results["cuda"], results["gsplat"], strict=True):
        assert_same_image(value, expected, 1e-3)
