# SPDX-License-Identifier: Apache-2.0
"""Compressed .ply, .splat and .spz: against their layouts written out by hand, other decoders, and each other."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from ns_diff3r.splats import Gaussians
from ns_diff3r.splats.compressed_ply import RANGES
from ns_diff3r.splats.eight_bit import LOGIT_LIMIT
from ns_diff3r.splats.formats import SPLAT_RECORD
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.spherical_harmonics import sh0_to_rgb
from tests.splats.random_gaussians import random_gaussians


def unit(quats: torch.Tensor) -> torch.Tensor:
    """Unit quaternions with the largest component positive."""
    largest = quats.gather(-1, quats.abs().argmax(-1, keepdim=True))
    return quats / quats.norm(dim=-1, keepdim=True) * largest.sign()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance between unit quaternions, of which q and -q are the same rotation."""
    a, b = unit(a), unit(b)
    return torch.minimum((a - b).norm(dim=-1), (a + b).norm(dim=-1)).max().item()


def write_compressed(path: Path, gaussians: Gaussians, color_range: bool = True, degree: int = 0) -> None:
    """A compressed .ply by the text of its format, one chunk per 256 Gaussians, Gaussian by Gaussian."""
    rgb = sh0_to_rgb(gaussians.sh0[:, 0])
    chunk_rows, words = [], []
    for start in range(0, gaussians.num_gaussians, 256):
        part = slice(start, start + 256)
        columns = torch.cat([gaussians.means, gaussians.scales, rgb], dim=1)[part]
        low, high = columns.amin(0), columns.amax(0)
        if not color_range:
            low[6:], high[6:] = 0.0, 1.0
        fractions = ((columns - low) / (high - low).clamp_min(1e-9)).tolist()
        chunk_rows.append([v.item() for pair in zip(low, high, strict=True) for v in pair])
        for row, quat, opacity in zip(
            fractions, unit(gaussians.quats[part]), gaussians.opacities_activated[part], strict=True
        ):
            x, y, z, sx, sy, sz = (round(f * m) for f, m in zip(row[:6], [2047, 1023, 2047] * 2, strict=True))
            r, g, b, a = (round(f * 255) for f in [*row[6:], opacity.item()])
            which = int(quat.abs().argmax())
            i, j, k = (round((q / 2**0.5 + 0.5) * 1023) for n, q in enumerate(quat.tolist()) if n != which)
            words.append((
                x << 21 | y << 11 | z, which << 30 | i << 20 | j << 10 | k, sx << 21 | sy << 11 | sz,
                r << 24 | g << 16 | b << 8 | a,
            ))  # fmt: skip
    names = [*RANGES, "min_r", "max_r", "min_g", "max_g", "min_b", "max_b"][: 18 if color_range else 12]
    chunks = np.array([tuple(row[: len(names)]) for row in chunk_rows], dtype=[(n, "<f4") for n in names])
    packed = [f"packed_{n}" for n in ("position", "rotation", "scale", "color")]
    elements = [PlyElement.describe(chunks, "chunk")]
    elements.append(PlyElement.describe(np.array(words, dtype=[(n, "<u4") for n in packed]), "vertex"))
    if degree:
        count = 3 * ((degree + 1) ** 2 - 1)
        flat = gaussians.shN.transpose(1, 2).reshape(-1, count)
        codes = ((flat / 8 + 0.5) * 256).floor().clamp(0, 255).to(torch.uint8).numpy()
        sh = codes.copy().view([(f"f_rest_{i}", "u1") for i in range(count)]).reshape(-1)
        elements.append(PlyElement.describe(sh, "sh"))
    PlyData(elements, byte_order="<").write(str(path))


@pytest.mark.parametrize("color_range", [True, False])
@pytest.mark.parametrize("degree", range(4))
def test_compressed_ply(tmp_path, degree, color_range):
    gaussians = random_gaussians(600, degree)
    if not color_range:  # old files store colours between 0 and 1
        gaussians = Gaussians(*gaussians.leaves()[:4], 0.1 * gaussians.sh0, gaussians.shN)
    write_compressed(tmp_path / "scene.compressed.ply", gaussians, color_range, degree)
    read = Gaussians.load(tmp_path / "scene.compressed.ply").to(dtype=torch.float64)
    assert read.sh_degree == degree
    spread = 8.0  # of a normal variable within a chunk, at most
    assert (read.means - gaussians.means).abs().max() < spread / 1023 / 2
    assert (read.scales - gaussians.scales).abs().max() < spread / 1023 / 2
    assert distance(read.quats, gaussians.quats) < 4e-3
    assert (read.opacities_activated - gaussians.opacities_activated).abs().max() < 0.51 / 255
    assert (read.sh0 - gaussians.sh0).abs().max() < spread / 255 / 2
    if degree:
        assert (read.shN - gaussians.shN.clamp(-4, 4)).abs().max() < 0.51 * 8 / 256


def test_compressed_ply_errors(tmp_path):
    path = tmp_path / "scene.ply"
    write_compressed(path, random_gaussians(300, 0))
    ply = PlyData.read(str(path))
    path = tmp_path / "short.ply"
    PlyData([PlyElement.describe(ply["chunk"].data[:1].copy(), "chunk"), ply["vertex"]]).write(str(path))
    with pytest.raises(ValueError, match=r"short\.ply: 300 Gaussians need 2 chunks of 256, it has 1"):
        Gaussians.load(path)
    vertices = np.zeros(300, dtype=[("packed_position", "<u4"), ("packed_scale", "<u4")])
    PlyData([ply["chunk"], PlyElement.describe(vertices, "vertex")]).write(str(path))
    with pytest.raises(ValueError, match="'vertex' lacks the properties packed_rotation, packed_color"):
        Gaussians.load(path)


def test_splat(tmp_path):
    records = np.zeros(2, dtype=SPLAT_RECORD)
    records["means"] = [[1, 2, 3], [4, 5, 6]]
    records["scales"] = [[0.5, 1, 2], [0.0, 1, 1]]
    records["rgba"] = [[255, 0, 51, 128], [0, 0, 0, 255]]
    records["quats"] = [[255, 128, 128, 128], [128, 0, 128, 128]]
    (tmp_path / "scene.splat").write_bytes(records.tobytes())
    gaussians = Gaussians.load(tmp_path / "scene.splat")
    assert gaussians.sh_degree == 0
    assert gaussians.means.tolist() == [[1, 2, 3], [4, 5, 6]]
    torch.testing.assert_close(gaussians.scales_activated[0], torch.tensor([0.5, 1.0, 2.0]))
    assert gaussians.scales.isfinite().all()
    torch.testing.assert_close(sh0_to_rgb(gaussians.sh0[0, 0]), torch.tensor([1.0, 0.0, 0.2]))
    assert gaussians.opacities_activated[0].item() == pytest.approx(128 / 255)
    assert gaussians.opacities[1].item() == pytest.approx(LOGIT_LIMIT, rel=1e-4)  # a saturated byte
    assert unit(gaussians.quats).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    (tmp_path / "scene.splat").write_bytes(records.tobytes()[:-1])
    with pytest.raises(ValueError, match=r"scene\.splat: a \.splat file has 32 bytes per Gaussian, this one 63"):
        Gaussians.load(tmp_path / "scene.splat")


def test_unknown_formats(tmp_path):
    (tmp_path / "scene.ksplat").write_bytes(bytes(64))
    with pytest.raises(ValueError, match=r"scene\.ksplat: unknown format; Gaussians are read from \.ply"):
        Gaussians.load(tmp_path / "scene.ksplat")
    with pytest.raises(FileNotFoundError):
        Gaussians.load(tmp_path / "scene.splat")


def test_spz_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsply", None)
    (tmp_path / "scene.spz").write_bytes(b"NGSP")
    with pytest.raises(ImportError, match=r"scene\.spz: .* pip install 'gsply\[spz\]'"):
        Gaussians.load(tmp_path / "scene.spz")


@pytest.mark.parametrize("degree", range(4))
def test_spz(tmp_path, degree):
    gsply = pytest.importorskip("gsply", reason="gsply, which reads .spz, is not installed")
    gaussians = random_gaussians(100, degree, torch.float32).map(lambda leaf: (0.3 * leaf).clamp(-0.9, 0.9))
    half_turn = Similarity(torch.tensor(1.0), torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.zeros(3))
    as_stored = half_turn.apply_gaussians(gaussians)  # right, up, back
    means, quats, scales, opacities, sh0, rest = (leaf.numpy() for leaf in as_stored.leaves())
    data = gsply.GSData.from_arrays(means, scales, quats, opacities, sh0[:, 0], rest if degree else None)
    gsply.write_spz(str(tmp_path / "scene.spz"), data)
    read = Gaussians.load(tmp_path / "scene.spz")
    assert read.sh_degree == degree
    torch.testing.assert_close(read.means, gaussians.means, rtol=0, atol=1e-3)
    torch.testing.assert_close(read.scales, gaussians.scales, rtol=0, atol=0.04)
    assert distance(read.quats, gaussians.quats) < 5e-3
    torch.testing.assert_close(read.opacities_activated, gaussians.opacities_activated, rtol=0, atol=3e-3)
    torch.testing.assert_close(read.sh0, gaussians.sh0, rtol=0, atol=0.02)
    torch.testing.assert_close(read.shN, gaussians.shN, rtol=0, atol=0.07)
    (tmp_path / "scene.spz").write_bytes(b"NGSP" + bytes(40))
    with pytest.raises(ValueError, match=r"scene\.spz: not a readable \.spz file"):
        Gaussians.load(tmp_path / "scene.spz")


REAL = {"biker.compressed.ply": 152_746, "guitar.compressed.ply": 90_854, "centered_lastchance.splat": 14_007}


@pytest.mark.parametrize("name", REAL)
def test_real_files(splat_files, name):
    gaussians = Gaussians.load(splat_files / name)
    assert gaussians.num_gaussians == REAL[name]
    assert gaussians.sh_degree == 0
    lengths = gaussians.quats.norm(dim=-1)
    assert (lengths - 1).abs().max() < 0.04  # eight bits a component in .splat
    size = gaussians.means.std(0).norm()
    assert 1e-4 * size < gaussians.scales_activated.median() < 0.1 * size
    colors = sh0_to_rgb(gaussians.sh0)
    assert ((colors > -0.1) & (colors < 1.1)).float().mean() > 0.9


@pytest.mark.parametrize("name", ["biker.compressed.ply", "guitar.compressed.ply"])
def test_real_compressed_files_as_another_decoder_reads_them(splat_files, name):
    gsply = pytest.importorskip("gsply", reason="gsply, the other decoder, is not installed")
    ours, theirs = Gaussians.load(splat_files / name), gsply.plyread(str(splat_files / name))
    torch.testing.assert_close(ours.means, torch.as_tensor(theirs.means), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.scales, torch.as_tensor(theirs.scales), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.quats, torch.as_tensor(theirs.quats), rtol=0, atol=1e-3)
    torch.testing.assert_close(ours.sh0[:, 0], torch.as_tensor(theirs.sh0), rtol=0, atol=1e-5)
    limited = torch.as_tensor(theirs.opacities).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    torch.testing.assert_close(ours.opacities, limited, rtol=0, atol=1e-4)


def test_one_object_in_two_formats(splat_files):
    pytest.importorskip("gsply", reason="gsply, which reads .spz, is not installed")
    a, b = (Gaussians.load(splat_files / name) for name in ("biker.compressed.ply", "biker.spz"))
    assert a.num_gaussians == b.num_gaussians
    # Quantised differently, so compare where they are, how they lie and how they look on average.
    size = a.means.std(0)
    assert ((a.means.mean(0) - b.means.mean(0)) / size).abs().max() < 1e-4
    torch.testing.assert_close(torch.cov(a.means.T), torch.cov(b.means.T), rtol=1e-3, atol=1e-5)
    a_covariances, b_covariances = a.covariances().mean(0), b.covariances().mean(0)
    assert (a_covariances - b_covariances).norm() < 5e-3 * a_covariances.norm()
    # The off-diagonal element that mixes right and down has the sign of the axes.
    assert a_covariances[0, 1] / b_covariances[0, 1] == pytest.approx(1.0, abs=0.01)
    for leaf_a, leaf_b, tolerance in (
        (a.scales, b.scales, 1e-3),
        (a.sh0, b.sh0, 1e-3),
        (a.opacities, b.opacities, 1e-3),
    ):
        assert (leaf_a.mean(0) - leaf_b.mean(0)).abs().max() < tolerance
        assert (leaf_a.std(0) - leaf_b.std(0)).abs().max() < 10 * tolerance
