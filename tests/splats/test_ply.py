# SPDX-License-Identifier: Apache-2.0
"""The standard 3DGS layout: exact round trips, the order of properties, and errors that name file and property."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from ns_diff3r.splats import Gaussians
from ns_diff3r.splats.ply import complete_or_absent, read_ply
from tests.splats.random_gaussians import assert_same, random_gaussians

BASE = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
BASE += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]


def write_vertices(path: Path, names: list[str], kind: str = "<f4", num: int = 3, **options) -> np.ndarray:
    """A vertex element whose value of property p of Gaussian n is 100 n + p."""
    vertices = np.zeros(num, dtype=[(name, kind) for name in names])
    for index, name in enumerate(names):
        vertices[name] = 100 * np.arange(num) + index
    PlyData([PlyElement.describe(vertices, "vertex")], **options).write(str(path))
    return vertices


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("num", [0, 1, 300])
def test_round_trip_is_exact(tmp_path, num, degree):
    gaussians = random_gaussians(num, degree, torch.float32)
    gaussians.save_ply(tmp_path / "scene.ply")
    assert_same(Gaussians.load_ply(tmp_path / "scene.ply"), gaussians)
    assert_same(Gaussians.load(str(tmp_path / "scene.ply")), gaussians)
    assert [file.name for file in tmp_path.iterdir()] == ["scene.ply"]


def test_extreme_floats_survive(tmp_path):
    gaussians = random_gaussians(4, 0, torch.float32)
    gaussians.means[:2] = torch.tensor([[1e-45, -0.0, 3.4e38], [1 + 2**-23, -1e-38, 0.1]])
    gaussians.save_ply(tmp_path / "scene.ply")
    loaded = Gaussians.load_ply(tmp_path / "scene.ply").means
    assert loaded.numpy().tobytes() == gaussians.means.numpy().tobytes()


def test_file_is_the_standard_layout(tmp_path):
    gaussians = random_gaussians(2, 1, torch.float32)
    gaussians.save_ply(tmp_path / "scene.ply")
    ply = PlyData.read(str(tmp_path / "scene.ply"))
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert [element.name for element in ply.elements] == ["vertex"]
    assert [p.name for p in ply["vertex"].properties] == names
    assert all(p.val_dtype == "f4" for p in ply["vertex"].properties)
    assert not ply.text
    assert ply.byte_order == "<"
    # f_rest is channel-major: the second coefficient of green is the fifth number.
    assert ply["vertex"]["f_rest_4"][1] == gaussians.shN[1, 1, 1]
    assert ply["vertex"]["rot_0"][1] == gaussians.quats[1, 0]


def test_gradient_tracking_and_float64_are_written_as_float32(tmp_path):
    gaussians = random_gaussians(3, 1)
    gaussians.requires_grad_().save_ply(tmp_path / "scene.ply")
    assert_same(Gaussians.load_ply(tmp_path / "scene.ply"), gaussians.detach().to(dtype=torch.float32))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("<f4", {"byte_order": "<"}), ("f8", {"byte_order": ">"}), ("<f8", {"text": True}), ("<i2", {"byte_order": "<"})],
)
def test_any_number_type_and_encoding(tmp_path, kind, options):
    rest = [f"f_rest_{i}" for i in range(9)]
    write_vertices(tmp_path / "scene.ply", [*reversed(BASE), "confidence", *rest], kind, **options)
    gaussians = read_ply(tmp_path / "scene.ply")
    assert gaussians.dtype == torch.float32
    assert gaussians.means[1].tolist() == [113, 112, 111]
    assert gaussians.quats[0].tolist() == [3, 2, 1, 0]
    assert gaussians.opacities.tolist() == [7, 107, 207]
    assert gaussians.shN[0].tolist() == [[15, 18, 21], [16, 19, 22], [17, 20, 23]]


def test_float64_is_kept_on_request(tmp_path):
    vertices = np.full(1, 0.1, dtype=[(name, "<f8") for name in BASE])
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(tmp_path / "scene.ply"))
    assert read_ply(tmp_path / "scene.ply", torch.float64).means[0, 0].item() == 0.1


@pytest.mark.parametrize("missing", ["y", "opacity", "scale_2", "rot_0", "f_dc_1"])
def test_missing_property(tmp_path, missing):
    write_vertices(tmp_path / "scene.ply", [name for name in BASE if name != missing])
    with pytest.raises(ValueError, match=rf"scene\.ply: element 'vertex' lacks the properties {missing}$"):
        Gaussians.load_ply(tmp_path / "scene.ply")


def test_point_cloud(tmp_path):
    write_vertices(tmp_path / "points.ply", ["x", "y", "z", "red", "green", "blue"])
    with pytest.raises(ValueError, match=r"points\.ply: .*a point cloud rather than Gaussians"):
        Gaussians.load_ply(tmp_path / "points.ply")


@pytest.mark.parametrize("rest", [[0, 1, 2], [*range(8), 10], range(10)])
def test_wrong_number_of_harmonics(tmp_path, rest):
    write_vertices(tmp_path / "scene.ply", [*BASE, *(f"f_rest_{i}" for i in rest)])
    with pytest.raises(ValueError, match=rf"scene\.ply: has {len(rest)} properties f_rest_"):
        Gaussians.load_ply(tmp_path / "scene.ply")


def test_non_finite_values_are_reported(tmp_path):
    vertices = write_vertices(tmp_path / "scene.ply", BASE)
    vertices["scale_1"][1:] = [np.nan, -np.inf]
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(tmp_path / "scene.ply"))
    with pytest.raises(ValueError, match=r"scene\.ply: Gaussians\.scales has 2 non-finite values of 9"):
        Gaussians.load_ply(tmp_path / "scene.ply")


def test_files_that_are_no_ply(tmp_path):
    (tmp_path / "scene.ply").write_bytes(b"ply\nnonsense\n")
    with pytest.raises(ValueError, match=r"scene\.ply: not a readable PLY"):
        Gaussians.load_ply(tmp_path / "scene.ply")
    (tmp_path / "scene.ply").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"scene\.ply: not a readable PLY"):
        Gaussians.load_ply(tmp_path / "scene.ply")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Gaussians.load_ply(tmp_path / "nowhere.ply")
    PlyData([PlyElement.describe(np.zeros(2, dtype=[("x", "f4")]), "face")]).write(str(tmp_path / "face.ply"))
    with pytest.raises(ValueError, match=r"face\.ply: no element 'vertex'; it has \['face'\]"):
        Gaussians.load_ply(tmp_path / "face.ply")


def test_truncated_file(tmp_path):
    random_gaussians(100, 1, torch.float32).save_ply(tmp_path / "scene.ply")
    content = (tmp_path / "scene.ply").read_bytes()
    (tmp_path / "scene.ply").write_bytes(content[:-50])
    with pytest.raises(ValueError, match=r"scene\.ply: not a readable PLY"):
        Gaussians.load_ply(tmp_path / "scene.ply")


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "scene.ply"
    gaussians = random_gaussians(3, 0, torch.float32)
    gaussians.save_ply(path)
    broken = gaussians.clone()
    broken.scales[1, 1] = torch.inf
    with pytest.raises(ValueError, match=r"scene\.ply: Gaussians\.scales has 1 non-finite value of 9"):
        broken.save_ply(path)
    with pytest.raises(OSError, match="disk full"), complete_or_absent(path) as stream:  # noqa: PT012
        stream.write(b"half a file")
        raise OSError("disk full")
    assert [file.name for file in tmp_path.iterdir()] == ["scene.ply"]
    assert_same(Gaussians.load_ply(path), gaussians)
