# SPDX-License-Identifier: Apache-2.0
"""Gaussians written by the suffix of the file and read back."""

import builtins
import math

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, render
from ns_diff3r.splats.writing import save_gaussians
from tests.scenes import make_scene


def scene(sh_degree: int = 2, scale: float = 1.0) -> tuple[Gaussians, Cameras]:
    gaussians, cameras = make_scene("generic", sh_degree=sh_degree, num_gaussians=300, dtype=torch.float32)
    means, quats, scales, opacities, sh0, rest = gaussians.leaves()
    rest = 0.2 * rest
    gaussians = Gaussians(scale * means, quats, scales + math.log(scale), opacities, sh0, rest)
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= scale
    return gaussians, Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)


def test_ply_is_exact(tmp_path):
    gaussians, _ = scene()
    save_gaussians(gaussians, tmp_path / "scene.ply")
    read = Gaussians.load(tmp_path / "scene.ply")
    assert all(torch.equal(a, b) for a, b in zip(read.leaves(), gaussians.leaves(), strict=True))


@pytest.mark.parametrize("sh_degree", [0, 2, 3])
@pytest.mark.parametrize("suffix", [".compressed.ply", ".spz"])
def test_small_formats_draw_nearly_the_same(suffix, sh_degree, tmp_path):
    pytest.importorskip("gsply")
    gaussians, cameras = scene(sh_degree)
    path = tmp_path / f"scene{suffix}"
    save_gaussians(gaussians, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    read = Gaussians.load(path)
    assert read.num_gaussians == gaussians.num_gaussians
    assert read.sh_degree == sh_degree
    difference = (render(read, cameras).rgb - render(gaussians, cameras).rgb).abs()
    assert float(difference.mean()) < 0.01


@pytest.mark.parametrize("scale", [0.1, 1.0, 300.0])
def test_spz_keeps_positions_whatever_the_units(scale, tmp_path):
    pytest.importorskip("gsply")
    gaussians, _ = scene(0, scale)
    save_gaussians(gaussians, tmp_path / "scene.spz")
    read = Gaussians.load(tmp_path / "scene.spz")
    error = (read.means - gaussians.means).abs().max() / gaussians.means.abs().max()
    assert float(error) < 1e-5
    assert float((read.scales - gaussians.scales).abs().max()) < 0.04


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_spz_refuses_units_in_which_it_would_spoil_the_scene(scale, tmp_path):
    pytest.importorskip("gsply")
    with pytest.raises(ValueError, match=r"scene.spz: .spz holds standard deviations from 4.5e-05 to 379"):
        save_gaussians(scene(0, scale)[0], tmp_path / "scene.spz")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    gaussians, _ = scene(0)
    with pytest.raises(ValueError, match=r"scene.obj: Gaussians are written as .ply, .compressed.ply, .spz"):
        save_gaussians(gaussians, tmp_path / "scene.obj")
    original = builtins.__import__

    def refuse(name: str, *arguments: object, **options: object) -> object:
        if name == "gsply":
            raise ImportError(name)
        return original(name, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"scene.spz: .* pip install 'gsply\[spz\]'"):
        save_gaussians(gaussians, tmp_path / "scene.spz")
    monkeypatch.undo()
    pytest.importorskip("gsply")
    with pytest.raises(ValueError, match="up to degree 3, not 4"):
        save_gaussians(gaussians.with_sh_degree(4), tmp_path / "scene.spz")
    broken = gaussians.map(lambda leaf: leaf * math.nan)
    for name in ("scene.spz", "scene.compressed.ply"):
        with pytest.raises(ValueError, match="non-finite"):
            save_gaussians(broken, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
