# SPDX-License-Identifier: Apache-2.0
"""SOG of both versions: against a writer of its own, what is wrong with a file, and real files."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from ns_diff3r.splats import Gaussians
from ns_diff3r.splats.eight_bit import LOGIT_LIMIT
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.splats.random_gaussians import assert_same, random_gaussians
from tests.splats.sog_writing import write_meta, write_sog, zipped

COUNT = 300


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("version", [1, 2])
def test_round_trip(tmp_path, version, degree):
    gaussians = random_gaussians(COUNT, degree)
    gaussians.opacities[:2] = torch.tensor([-30.0, 30.0]) if version == 2 else torch.tensor([-5.0, 5.0])
    gaussians.means[:3] *= 100  # the logarithm keeps what is near exact all the same
    write_sog(tmp_path / "scene", gaussians, version)
    read = Gaussians.load(tmp_path / "scene").to(dtype=torch.float64)
    assert (read.num_gaussians, read.sh_degree) == (COUNT, degree)

    step = 2 * gaussians.means.abs().log1p().max() / 65535
    assert ((read.means - gaussians.means).abs() < 0.51 * step * (1 + gaussians.means.abs())).all()
    difference = (quats_to_rotations(read.quats) - quats_to_rotations(gaussians.quats)).flatten(1).norm(dim=1)
    assert difference.max() < 0.025  # a component is stored in steps of √2 / 255
    assert (read.quats.norm(dim=-1) - 1).abs().max() < 1e-6
    if version == 1:
        for name in ("scales", "sh0", "shN", "opacities"):
            value, found = getattr(gaussians, name), getattr(read, name)
            dims = (0,) if name != "shN" else (0, 1, 2)
            spread = value.amax(dims) - value.amin(dims) if value.numel() else 1.0
            assert ((found - value).abs() < 0.51 * spread / 255 + 1e-6).all(), name
        return
    for name in ("scales", "sh0", "shN"):
        value, found = getattr(gaussians, name), getattr(read, name)
        if value.numel():
            book = value.flatten().quantile(torch.linspace(0, 1, 256, dtype=torch.float64))
            nearest = (value[..., None] - book).abs().amin(-1)
            torch.testing.assert_close((found - value).abs(), nearest, rtol=0, atol=1e-5, msg=name)
    assert (read.opacities_activated - gaussians.opacities_activated).abs().max() < 0.51 / 255
    assert read.opacities[:2].tolist() == pytest.approx([-LOGIT_LIMIT, LOGIT_LIMIT], rel=1e-4)


@pytest.mark.parametrize("within", ["", "scene/"])
def test_the_zip_and_meta_json_hold_the_same(tmp_path, within):
    folder = tmp_path / "scene"
    write_sog(folder, random_gaussians(COUNT, 1), 2)
    expected = Gaussians.load(folder)
    assert_same(Gaussians.load(folder / "meta.json"), expected)
    path = zipped(folder, tmp_path / "scene.sog", within)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{within}older/meta.json", "{}")  # the one nearest to the root counts
    shutil.rmtree(folder)
    assert_same(Gaussians.load(path), expected)
    assert_same(Gaussians.load(path.rename(tmp_path / "scene.zip")), expected)  # by its contents
    assert [file.name for file in tmp_path.iterdir()] == ["scene.zip"]  # nothing was unpacked


def test_other_images_and_a_codebook_without_its_first_number(tmp_path):
    folder = tmp_path / "scene"
    meta = write_sog(folder, random_gaussians(COUNT, 0), 2)
    expected = Gaussians.load(folder)
    with Image.open(folder / "sh0.webp") as image:
        image.save(folder / "colors.png")
    with Image.open(folder / "means_u.webp") as image:
        image.convert("RGBA").save(folder / "means_u.webp", lossless=True, exact=True)
    meta["sh0"]["files"] = ["colors.png"]
    write_meta(folder, meta)
    assert_same(Gaussians.load(folder), expected)

    meta["scales"]["codebook"] = [None, *np.linspace(-3.0, -0.46, 255).tolist()]
    write_meta(folder, meta)
    with Image.open(folder / "scales.webp") as image:
        codes = np.asarray(image)[..., :3].reshape(-1, 3)[:COUNT]
    assert (codes == 0).any()
    np.testing.assert_allclose(Gaussians.load(folder).scales, -3.01 + 0.01 * codes, atol=1e-5)


def test_the_component_left_out_of_a_quaternion(tmp_path):
    folder = tmp_path / "scene"
    write_sog(folder, random_gaussians(4, 0), 2)
    pixels = np.array([[[255, 128, 128, 252 + largest] for largest in range(4)]], dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "quats.webp", lossless=True, exact=True)
    half = 0.5**0.5  # the largest, and the first of the others in the order w, x, y, z
    expected = torch.tensor([[half, half, 0, 0], [half, half, 0, 0], [half, 0, half, 0], [half, 0, 0, half]])
    torch.testing.assert_close(Gaussians.load(folder).quats, expected, rtol=0, atol=4e-3)


def change(folder: Path, meta: dict, what: str, value: object) -> None:
    """Set a field by its dotted name (None: remove it)."""
    *path, last = what.split(".")
    place = meta
    for part in path:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    write_meta(folder, meta)


@pytest.mark.parametrize(
    ("version", "what", "value", "message"),
    [
        (2, "version", 3, r"meta\.json: version is 3, but 1 \(no such field\) and 2 are read"),
        (2, "version", None, r"meta\.json: no field means\.shape"),
        (2, "count", None, r"meta\.json: no field count"),
        (2, "count", 0, r"meta\.json: count must be a whole number from 1 to \d+, got 0"),
        (2, "count", 1e9, r"meta\.json: count must be a whole number from 1 to \d+, got 1000000000\.0"),
        (2, "count", 10**9, r"meta\.json: count must be a whole number from 1 to 67108864, got 1000000000"),
        (2, "count", 400, r"sh0\.webp \(sh0\.files\[0\]\): has 8 × 38 pixels, but 400 are needed"),
        (2, "means", None, r"meta\.json: no field means\.files"),
        (2, "quats", [], r"meta\.json: no field quats\.files"),
        (2, "means.mins", [0, 0], r"meta\.json: means\.mins must hold 3 numbers, got 2"),
        (2, "means.mins", [0, float("nan"), 0], r"meta\.json: means\.mins must hold finite numbers, got nan"),
        (1, "sh0.maxs", [0, 1, 1, float("inf")], r"meta\.json: sh0\.maxs must hold finite numbers, got inf"),
        (2, "means.maxs", [0, 0, 10**400], r"meta\.json: means\.maxs must hold finite numbers, got 1000"),
        (2, "means.maxs", [1, 1, 200], r"scene: Gaussians\.means has \d+ non-finite values"),
        (2, "scales.codebook", [0.0] * 255, r"meta\.json: scales\.codebook must hold 256 numbers, got 255"),
        (2, "sh0.codebook", [0.0] * 255 + [None], r"meta\.json: sh0\.codebook must hold finite numbers, got None"),
        (2, "shN.codebook", 5, r"meta\.json: shN\.codebook must hold 256 numbers, got 1"),
        (2, "shN.bands", 4, r"meta\.json: shN\.bands must be a whole number from 1 to 3, got 4"),
        (2, "shN.bands", 2, r"shN_centroids\.webp \(shN\.files\[0\]\): has 192 × 5 pixels, but 512 × 5 are needed"),
        (2, "shN.count", 400, r"shN_centroids\.webp \(shN\.files\[0\]\): has 192 × 5 pixels, but 192 × 7 are needed"),
        (2, "shN.count", 30, r"shN_labels\.webp \(shN\.files\[1\]\): refers to entry \d+ of the palette, which has 30"),
        (2, "means.files", ["means_l.webp"], r"meta\.json: means\.files must be a list of 2 file names"),
        (2, "sh0.files", ["absent.webp"], r"absent\.webp \(sh0\.files\[0\]\): no such file"),
        (2, "sh0.files", ["../scene/sh0.webp"], r"meta\.json: sh0\.files\[0\] must name a file beside it, got '\.\./"),
        (2, "sh0.files", [".."], r"meta\.json: sh0\.files\[0\] must name a file beside it, got '\.\.'"),
        (2, "sh0.files", ["meta.json"], r"meta\.json \(sh0\.files\[0\]\): not a readable WebP or PNG image"),
        (2, "quats.files", ["sh0.webp"], r"sh0\.webp \(quats\.files\[0\]\): alpha, which says .* of 300 Gaussians"),
        (1, "means.shape", None, r"meta\.json: no field means\.shape"),
        (1, "means.shape", [], r"meta\.json: means\.shape must be a list of numbers"),
        (1, "sh0.shape", [299, 1, 4], r"disagree about the number of Gaussians: means 300, .*sh0 299"),
        (1, "quats.encoding", "raw", r"meta\.json: quats\.encoding must be 'quaternion_packed', got 'raw'"),
        (1, "shN.files", ["sh0.webp", "shN_labels.webp"], r"has 8 × 38 pixels, but 192 or 512 or 960 × 38 are needed"),
    ],
)
def test_wrong_fields(tmp_path, version, what, value, message):
    folder = tmp_path / "scene"
    meta = write_sog(folder, random_gaussians(COUNT, 1), version)
    change(folder, meta, what, value)
    with pytest.raises(ValueError, match=message):
        Gaussians.load(folder)
    with pytest.raises(ValueError, match=message.replace("scene:", r"scene\.sog:")):
        Gaussians.load(zipped(folder, tmp_path / "scene.sog"))


def test_wrong_folders_and_images(tmp_path, monkeypatch):
    folder = tmp_path / "scene"
    write_sog(folder, random_gaussians(COUNT, 0), 2)
    image = folder / "quats.webp"
    for content, message in (
        (b"", "not a readable WebP or PNG image"),
        (image.read_bytes()[:-20], "not a readable WebP or PNG image"),
        (bytes(10**6), "has more than the 327680 bytes that can be needed"),
    ):
        image.write_bytes(content)
        with pytest.raises(ValueError, match=rf"scene/quats\.webp \(quats\.files\[0\]\): {message}"):
            Gaussians.load(folder)
    Image.fromarray(np.zeros((38, 8), dtype=np.uint8)).save(image, "png")
    with pytest.raises(ValueError, match=r"quats\.webp .*: must have red, green and blue of 8 bits, got .* mode L"):
        Gaussians.load(folder)
    Image.fromarray(np.zeros((4000, 4000, 4), dtype=np.uint8)).save(image, lossless=True)  # a bomb: 16 million pixels
    assert image.stat().st_size < 10_000
    decoded = []
    load = WebPImageFile.load
    monkeypatch.setattr(WebPImageFile, "load", lambda image: decoded.append(image.size) or load(image))
    with pytest.raises(ValueError, match="has 4000 × 4000 pixels, but no more than 65536 can be needed"):
        Gaussians.load(folder)
    assert set(decoded) == {(8, 38)}  # the others
    for text, message in (
        ("[1]", "must hold a JSON object, got list"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        (" " * (2**20 + 1), "has more than the 1048576 bytes"),
    ):
        (folder / "meta.json").write_text(text)
        with pytest.raises(ValueError, match=rf"scene/meta\.json: {message}"):
            Gaussians.load(folder)
    (folder / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"scene: no meta\.json in this folder"):
        Gaussians.load(folder)
    with pytest.raises(FileNotFoundError):
        Gaussians.load(tmp_path / "absent.sog")


def test_wrong_zips(tmp_path):
    folder, path = tmp_path / "scene", tmp_path / "scene.sog"
    write_sog(folder, random_gaussians(COUNT, 0), 2)
    zipped(folder, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("means_l.webp").header_offset
    for content in (b"", b"not a zip", whole[:-40], whole[:30]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"scene\.sog: not a readable zip"):
            Gaussians.load(path)
    path.write_bytes(whole[: start + 100] + bytes(20) + whole[start + 120 :])
    with pytest.raises(ValueError, match=r"scene\.sog: means_l\.webp \(means\.files\[0\]\): cannot be read"):
        Gaussians.load(path)
    (folder / "means_l.webp").write_bytes(bytes(10**7))  # a bomb: 10 MB in 10 kB
    with pytest.raises(ValueError, match=r"means_l\.webp .*: has more than the 327680 bytes that can be needed"):
        Gaussians.load(zipped(folder, path))
    (folder / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"scene\.sog: no meta\.json in this zip"):
        Gaussians.load(zipped(folder, path))


REAL = {"playbot_sog_lod1": (250_000, 2), "playbot_sog_lod2": (125_000, 2), "playcanvas-logo_sog": (307_128, 0)}


def real(splat_files: Path, name: str) -> Gaussians:
    if not (splat_files / name).is_dir():
        pytest.skip(f"{name} is not among the trained splats at hand")
    return Gaussians.load(splat_files / name)


@pytest.mark.parametrize("name", REAL)
def test_real_files(splat_files, name):
    gaussians = real(splat_files, name)
    assert (gaussians.num_gaussians, gaussians.sh_degree) == REAL[name]
    meta = json.loads((splat_files / name / "meta.json").read_text())
    for end, ends in (("mins", gaussians.means.amin(0)), ("maxs", gaussians.means.amax(0))):
        expected = torch.tensor(meta["means"][end])
        torch.testing.assert_close(ends.abs().log1p() * ends.sign(), expected, rtol=0, atol=1e-4)
    assert (gaussians.quats.norm(dim=-1) - 1).abs().max() < 1e-6
    size = gaussians.means.std(0).norm()
    assert 1e-4 * size < gaussians.scales_activated.median() < 0.1 * size
    # Neighbours in the file are neighbours in space, where flat Gaussians lie on one surface: were w, x, y, z in
    # another order, their normals would agree less (0.57 for playbot, 0.80 for the logo, which is fur).
    sorted_scales = gaussians.scales.sort(-1).values
    axis = gaussians.scales.argmin(-1)[:, None, None].expand(-1, 3, 1)
    normals = quats_to_rotations(gaussians.quats).gather(2, axis)[..., 0]
    flat = (sorted_scales[:, 1] - sorted_scales[:, 0] > 1.5) & (gaussians.opacities > 0)
    near = flat[1:] & flat[:-1] & (gaussians.means.diff(dim=0).norm(dim=-1) < 0.02)
    assert (normals[1:] * normals[:-1]).sum(-1).abs()[near].mean() > 0.84


def test_two_levels_of_one_object_are_alike(splat_files):
    fine, coarse = (real(splat_files, f"playbot_sog_lod{level}") for level in (1, 2))
    torch.testing.assert_close(fine.means.amin(0), coarse.means.amin(0), rtol=0, atol=0.01)
    torch.testing.assert_close(fine.means.amax(0), coarse.means.amax(0), rtol=0, atol=0.01)
    for gaussians in (fine, coarse):
        x, y, z = gaussians.means.unbind(-1)
        assert (y > -0.25).float().mean() > 0.5  # the ground, which is below: y is down
        high = gaussians.means[y < -0.5]
        assert high[:, [0, 2]].norm(dim=-1).median() < 0.5 < torch.stack([x, z]).norm(dim=0).median()
