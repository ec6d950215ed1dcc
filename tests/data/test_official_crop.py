# SPDX-License-Identifier: Apache-2.0
"""Views as the official evaluations take them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ns_diff3r.data import ImageError, SceneError, load_scene
from ns_diff3r.data.chunk_scenes import chunk_scene
from ns_diff3r.data.chunks import ChunkFolder, bytes_tensor, camera_row, write_chunks
from ns_diff3r.data.official_crop import official_views
from tests.data.scene_files import write_scene


def jpeg(size: tuple[int, int], seed: int) -> bytes:
    """Smooth noise of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture(scope="module")
def chunks(tmp_path_factory) -> ChunkFolder:
    """One scene of two pictures as RealEstate10K has them: 640x360, centred."""
    poses = np.eye(4)[None].repeat(2, 0)
    poses[1, 0, 3] = -0.3
    rows = [camera_row(pose, 320.0, 324.0, 320.0, 180.0, 640, 360) for pose in poses]
    example = {"key": "a", "url": "", "timestamps": torch.arange(2), "cameras": torch.from_numpy(np.stack(rows))}
    folder = tmp_path_factory.mktemp("chunks") / "test"
    write_chunks(folder, [{**example, "images": [bytes_tensor(jpeg((640, 360), seed)) for seed in (0, 1)]}])
    return ChunkFolder(folder)


def test_pixels_and_intrinsics_are_the_official_ones(chunks):
    """Lanczos on 8 bit to 455x256, columns 99 to 355; focal lengths by the resize, principal point at the centre."""
    views = official_views(chunk_scene(chunks, "a"), [0, 1], (256, 256), 0.5, 100.0)
    for seed, image in enumerate(views.images):
        whole = (
            Image.open(io.BytesIO(jpeg((640, 360), seed))).convert("RGB").resize((455, 256), Image.Resampling.LANCZOS)
        )
        expected = np.asarray(whole, dtype=np.float32)[:, 99:355] / 255
        np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)
    expected = torch.tensor([[320.0 * 455 / 640, 0, 128], [0, 324.0 * 256 / 360, 128], [0, 0, 1]])
    torch.testing.assert_close(views.cameras.Ks, expected.repeat(2, 1, 1))
    torch.testing.assert_close(views.cameras.centers, torch.tensor([[0.0, 0, 0], [0.3, 0, 0]]))
    assert views.near is not None
    assert views.far is not None
    assert views.near.tolist() == [0.5, 0.5]
    assert views.far.tolist() == [100.0, 100.0]


def test_other_sizes_keep_what_is_seen_where_it_is(chunks):
    """A portrait of the same scene: what the middle sees does not move, and the principal point stays in the middle."""
    scene = chunk_scene(chunks, "a")
    portrait = official_views(scene, [1], (180, 90))
    assert portrait.images.shape == (1, 180, 90, 3)
    assert portrait.near is None or portrait.near.shape == (1,)
    square = official_views(scene, [1], (180, 180))
    torch.testing.assert_close(portrait.images[0], square.images[0][:, 45:135])
    torch.testing.assert_close(portrait.cameras.Ks[0, :2, 2], torch.tensor([45.0, 90.0]))


def test_an_uncentred_principal_point_moves_with_the_picture(tmp_path):
    scene = load_scene(write_scene(tmp_path))  # 12x8, c = (6.5, 4.25)
    views = official_views(scene, [0, 2], (4, 4))
    torch.testing.assert_close(views.cameras.Ks[:, :2, 2], torch.tensor([[2.25, 2.125]]).expand(2, 2))
    torch.testing.assert_close(views.cameras.Ks[0, [0, 1], [0, 1]], torch.tensor([5.0, 5.5]))
    assert scene.depth_range is not None
    assert views.near is not None
    np.testing.assert_allclose(views.near.numpy(), scene.depth_range[0][[0, 2]], rtol=1e-6)


def test_distortion_is_undone_or_left_in(tmp_path):
    """Left in, the picture is the stored one, with the lens's intrinsics."""
    scene = load_scene(write_scene(tmp_path, k1=-0.15))
    straight, stored = (official_views(scene, [1], (8, 12), undistort=undo) for undo in (True, False))
    with Image.open(tmp_path / "images" / "1.png") as image:
        expected = np.asarray(image, dtype=np.float32) / 255
    np.testing.assert_allclose(stored.images[0].numpy(), expected, atol=1e-6)
    assert (straight.images - stored.images).abs().max() > 0.05
    torch.testing.assert_close(stored.cameras.Ks[0], torch.tensor([[10.0, 0, 6.5], [0, 11.0, 4.25], [0, 0, 1]]))


def test_faults(chunks, tmp_path):
    scene = chunk_scene(chunks, "a")
    with pytest.raises(SceneError, match="640x360 is smaller than the 640x512 asked for"):
        official_views(scene, [0], (512, 640))
    for index in (2, -1):
        with pytest.raises(SceneError, match=f"no view {index}, the scene has 2"):
            official_views(scene, [index], (64, 64))
    broken = load_scene(write_scene(tmp_path))
    (tmp_path / "images" / "0.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"0\.png: not a readable image"):
        official_views(broken, [0], (4, 4))
