# SPDX-License-Identifier: Apache-2.0
import builtins
import json
import shutil

import numpy as np
import pytest
import torch

from ns_diff3r.data import SceneError, load_scene
from tests.data.textured_plane import Distortion, camera, largest_error, write_plane_scene

pycolmap = pytest.importorskip("pycolmap", reason="needs the extra [colmap]")

K = camera(0, 0)[1].Ks[0]
FX, FY, CX, CY = (K[i].item() for i in ((0, 0), (1, 1), (0, 2), (1, 2)))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """wxyz of a rotation: 4 q qᵀ is this matrix plus the identity, so that q is its first eigenvector."""
    r = rotation
    matrix = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    return np.linalg.eigh(matrix)[1][:, -1]


def write_model(folder, camera_line, *, model="sparse/0", points=30, images=("0.png", "1.png", "2.png"), binary=False):
    """A text model with the poses of the plane scene in `folder`; points on the plane, in the colour 255 128 0."""
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    (folder / "transforms.json").unlink()
    path = folder / model
    path.mkdir(parents=True, exist_ok=True)
    lines = []
    # Numbered against the order of the names, which is what counts.
    for number, (name, frame) in enumerate(reversed(list(zip(images, frames, strict=False))), start=1):
        pose = np.array(frame["transform_matrix"])
        rotation = (pose[:3, :3] * [1, -1, -1]).T
        values = [*quaternion(rotation), *(-rotation @ pose[:3, 3])]
        lines += [f"{number} {' '.join(repr(float(v)) for v in values)} 1 {name}", ""]
    (path / "cameras.txt").write_text(f"1 {camera_line}\n")
    (path / "images.txt").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(0)
    rows = [f"{i + 1} {x} {y} -4.0 255 128 0 0.1" for i, (x, y) in enumerate(rng.uniform(-1, 1, (points, 2)).tolist())]
    (path / "points3D.txt").write_text("\n".join(rows) + "\n")
    if binary:
        reconstruction = pycolmap.Reconstruction(str(path))
        for file in path.glob("*.txt"):
            file.unlink()
        reconstruction.write_binary(str(path))
        assert (path / "images.bin").is_file()
    return folder


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("model", ["sparse/0", "sparse", ".", "colmap/sparse/0"])
def test_a_model_gives_the_cameras_of_the_photographs(tmp_path, model, binary):
    folder = write_plane_scene(tmp_path / "scene")
    write_model(folder, f"PINHOLE 60 40 {FX} {FY} {CX} {CY}", model=model, binary=binary)
    scene = load_scene(folder)
    assert [frame.image_path.name for frame in scene.frames] == ["0.png", "1.png", "2.png"]
    assert largest_error(scene.views([0, 1, 2])) < 0.002
    assert scene.points is not None
    np.testing.assert_allclose(scene.points.points[:, 2], -4)
    np.testing.assert_allclose(scene.points.colors[0], [1, 128 / 255, 0])
    near, far = scene.views([0]).near, scene.views([0]).far
    assert near is not None
    assert far is not None
    assert 0 < near[0] < 4 < far[0]


@pytest.mark.parametrize(
    ("line", "distortion"),
    [
        (f"SIMPLE_RADIAL 60 40 {FX} {CX} {CY} -0.1", Distortion(k1=-0.1)),
        (f"RADIAL 60 40 {FX} {CX} {CY} -0.1 0.03", Distortion(k1=-0.1, k2=0.03)),
        (
            f"OPENCV 60 40 {FX} {FY} {CX} {CY} -0.1 0.03 0.004 -0.003",
            Distortion(k1=-0.1, k2=0.03, p1=0.004, p2=-0.003),
        ),
        (f"SIMPLE_PINHOLE 60 40 {FX} {CX} {CY}", None),
    ],
)
def test_camera_models(tmp_path, line, distortion, monkeypatch):
    if "SIMPLE" in line or line.startswith("RADIAL"):  # one focal length
        square = camera(0, 0)[1].Ks.clone()
        square[0, 1, 1] = FX
        plain = camera
        monkeypatch.setattr(
            "tests.data.textured_plane.camera",
            lambda *args: (plain(*args)[0], type(plain(*args)[1])(plain(*args)[1].viewmats, square, 60, 40)),
        )
    folder = write_model(write_plane_scene(tmp_path / "scene", distortion=distortion), line)
    views = load_scene(folder).views([0, 1, 2])
    assert largest_error(views) < 0.008
    torch.testing.assert_close(views.cameras.Ks[0, 0, 0].item(), FX, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "line",
    [
        "OPENCV_FISHEYE 60 40 50 50 30 20 0 0 0 0",
        "FULL_OPENCV 60 40 50 50 30 20 0 0 0 0 0 0 0 0",
        "SIMPLE_RADIAL_FISHEYE 60 40 50 30 20 0.1",
        "FOV 60 40 50 50 30 20 0.5",
    ],
)
def test_other_camera_models_are_named(tmp_path, line):
    folder = write_model(write_plane_scene(tmp_path / "scene"), line)
    with pytest.raises(SceneError, match=f"scene/sparse/0: camera 1 has the model {line.split()[0]}, .*image_undist"):
        load_scene(folder)


def test_the_largest_of_several_models_is_taken(tmp_path):
    folder = write_plane_scene(tmp_path / "scene")
    text = (folder / "transforms.json").read_text()
    line = f"PINHOLE 60 40 {FX} {FY} {CX} {CY}"
    write_model(folder, line, model="sparse/0", images=("0.png", "1.png"))
    (folder / "transforms.json").write_text(text)
    write_model(folder, line, model="sparse/1")
    assert load_scene(folder).num_frames == 3


def test_images_are_found_beside_the_model(tmp_path):
    folder = write_model(write_plane_scene(tmp_path / "scene"), f"PINHOLE 60 40 {FX} {FY} {CX} {CY}", points=0)
    shutil.move(folder / "images", folder / "input")
    scene = load_scene(folder)
    assert scene.points is None
    assert scene.frames[0].image_path == folder / "input" / "0.png"
    for file in (folder / "input").iterdir():
        file.rename(folder / file.name)
    assert load_scene(folder).frames[0].image_path == folder / "0.png"
    for file in folder.glob("*.png"):
        file.unlink()
    with pytest.raises(SceneError, match=r"none of the 3 images of the COLMAP model is found, such as 0\.png"):
        load_scene(folder)


def test_a_broken_model_is_named(tmp_path):
    folder = write_model(write_plane_scene(tmp_path / "scene"), f"PINHOLE 60 40 {FX} {FY} {CX} {CY}")
    (folder / "sparse" / "0" / "cameras.txt").write_text("1 PINHOLE 60\n")
    with pytest.raises(SceneError, match="sparse/0: not a readable COLMAP model"):
        load_scene(folder)


def test_without_pycolmap_the_extra_is_named(tmp_path, monkeypatch):
    folder = write_model(write_plane_scene(tmp_path / "scene"), f"PINHOLE 60 40 {FX} {FY} {CX} {CY}")
    real = builtins.__import__

    def no_pycolmap(name, *args, **kwargs):
        if name == "pycolmap":
            raise ImportError("No module named 'pycolmap'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pycolmap)
    with pytest.raises(SceneError, match=r"needs pycolmap.*ns-diff3r\[colmap\]"):
        load_scene(folder)
