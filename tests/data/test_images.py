# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from ns_diff3r.data import ImageError
from ns_diff3r.data.images import ImageHeader, inspect_image, largest_reduction, read_image
from ns_diff3r.data.resampling import Resampling


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 40
    return (127 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_a_cut_file_is_noticed_before_it_is_read(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(noise(64, 48)).save(path)
    assert inspect_image(path) == ImageHeader(48, 64)
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageError, match=rf"image\.{suffix}: not a readable image"):
            inspect_image(path)
        with pytest.raises(ImageError, match=rf"image\.{suffix}: not a readable image"):
            read_image(path)


def test_a_jpeg_with_data_behind_it_is_whole(tmp_path):
    """Telephones append videos to photographs."""
    path = tmp_path / "image.jpg"
    Image.fromarray(noise(64, 48)).save(path)
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert inspect_image(path) == ImageHeader(48, 64)


def test_whole_files_are_not_decoded_to_be_checked(tmp_path, monkeypatch):
    paths = [tmp_path / f"image.{suffix}" for suffix in ("png", "jpg")]
    for path in paths:
        Image.fromarray(noise(64, 48)).save(path)

    def load(self):
        raise AssertionError(f"{self} is decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert [inspect_image(path) for path in paths] == [ImageHeader(48, 64)] * 2


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_modes_that_are_rgb_in_disguise(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.fromarray(smooth(20, 30)).convert(mode).save(path)
    inspect_image(path)
    expected = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    torch.testing.assert_close(read_image(path).pixels, torch.from_numpy(expected))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_modes_that_need_a_decision(tmp_path, mode):
    path = tmp_path / "image.tif"
    Image.new(mode, (5, 5)).save(path)
    for function in (inspect_image, read_image):
        with pytest.raises(ImageError, match=r"image\.tif: .* images are not read; convert it to 8-bit RGB"):
            function(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_the_background(tmp_path, mode):
    path = tmp_path / "image.png"
    image = Image.fromarray(noise(6, 5, 4))
    if mode == "P":
        image = Image.fromarray(noise(6, 5, 1)[..., 0] % 4)
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
        image.save(path, transparency=2)
    else:
        image.convert(mode).save(path)
    inspect_image(path)
    rgba = np.asarray(Image.open(path).convert("RGBA"), dtype=np.float64) / 255
    for background in ((1.0, 1.0, 1.0), (0.0, 0.5, 0.25)):
        expected = rgba[..., :3] * rgba[..., 3:] + np.array(background) * (1 - rgba[..., 3:])
        pixels = read_image(path, background=background).pixels
        torch.testing.assert_close(pixels.double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_reduction_averages_squares(tmp_path, suffix, reduction):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(smooth(83, 129)).save(path, quality=98, subsampling=0)
    raster = read_image(path, reduction=reduction)
    full = read_image(path).pixels
    height, width = 83 // reduction, 129 // reduction
    expected = full[: height * reduction, : width * reduction]
    expected = expected.reshape(height, reduction, width, reduction, 3).mean(dim=(1, 3))
    assert (raster.width, raster.height, raster.pixel) == (129, 83, reduction)
    assert raster.pixels.shape == (-(-83 // reduction), -(-129 // reduction), 3)
    torch.testing.assert_close(raster.pixels[:height, :width], expected, atol=0.015, rtol=0)


def test_a_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"
    Image.fromarray(smooth(800, 1200)).save(path)
    decoded = []
    plain = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: decoded.append(self.size) or plain(self, mode))
    read_image(path, reduction=8)
    assert decoded == [(150, 100)]


def test_twice_the_pixels_are_left_for_the_average():
    assert [largest_reduction(s) for s in (0.5, 1, 3.9, 4, 7.9, 8, 15.9, 16, 100)] == [1, 1, 1, 2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize(("box", "size"), [((0, 0, 37, 23), (9, 5)), ((3.3, 1.7, 30.2, 20.1), (8, 7))])
def test_area_average_against_fine_sampling(box, size):
    """Every source pixel cut into 50 × 50, and all that fall into a result pixel averaged."""
    image = torch.from_numpy(noise(23, 37)).double() / 255
    fine = image.repeat_interleave(50, 0).repeat_interleave(50, 1)
    left, top, width, height = box
    resampling = Resampling(left, top, width, height, *size)
    x, y = ((torch.arange(n * 50).double() + 0.5) / 50 for n in (37, 23))
    column = ((x - left) / width * size[0]).floor()
    row = ((y - top) / height * size[1]).floor()
    result = resampling.apply_to_image(image)
    assert result.shape == (size[1], size[0], 3)
    for i in range(size[1]):
        for j in range(size[0]):
            torch.testing.assert_close(result[i, j], fine[row == i][:, column == j].mean(dim=(0, 1)), atol=0.01, rtol=0)


def test_a_reduced_image_is_placed_where_it_was():
    """Averages over pixels of 2 that begin at -1 are those over the pixels they stand for."""
    image = torch.from_numpy(noise(10, 12)).double() / 255
    padded = torch.nn.functional.pad(image, (0, 0, 1, 1, 1, 1))
    reduced = padded.reshape(6, 2, 7, 2, 3).mean(dim=(1, 3))
    resampling = Resampling(1.0, 3.0, 8.0, 4.0, 2, 1)
    expected = resampling.apply_to_image(image)
    torch.testing.assert_close(resampling.apply_to_image(reduced, left=-1.0, top=-1.0, pixel=2.0), expected)
