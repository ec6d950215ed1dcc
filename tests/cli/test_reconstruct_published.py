# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r reconstruct` from published weights, and from photographs without poses; random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ns_diff3r import Gaussians
from ns_diff3r.cli.main import main
from ns_diff3r.data import load_scene
from ns_diff3r.training.predicted_poses import predict_poses
from tests.backbones.official_views import depth_anything_3, depthsplat
from tests.cli.test_fit_and_export import EXAMPLE


@pytest.fixture(scope="module")
def da3(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("da3") / "model.safetensors"
    save_file({f"model.{name}": value for name, value in depth_anything_3().network.state_dict().items()}, path)
    return path


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Five photographs of a real scene, nothing else."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in sorted((EXAMPLE / "images").iterdir())[:5]:
        shutil.copy(image, folder)
    return folder


def reconstruct(data: Path, output: Path, *options: object) -> int:
    arguments = ["--data", data, "--output", output, "--no-nerfstudio-run", *options]
    return main(["reconstruct", *map(str, arguments)])


def test_five_photographs_without_poses_become_a_splat(da3, photographs, tmp_path, capsys):
    assert reconstruct(photographs, tmp_path / "out", "--weights", da3, "--max-size", 56, "--steps", 3) == 0
    printed = capsys.readouterr().out
    assert "poses of 5 of 5 photographs" in printed
    splat = Gaussians.load_ply(tmp_path / "out" / "scene.ply")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert splat.num_gaussians == results["num_gaussians"] == 5 * 42 * 56
    assert results["context"] == [f"{i:02d}.jpg" for i in range(5)]
    assert results["tto"]["loss_curve"][-1] < results["tto"]["loss_curve"][0]
    scene = load_scene(tmp_path / "out" / "poses")
    assert scene.num_frames == 5
    assert scene.points is not None
    np.testing.assert_allclose(scene.frames[0].camera_to_world, np.diag([1.0, -1, -1, 1]), atol=1e-9)


def test_what_is_written_is_what_was_predicted(photographs, tmp_path):
    """The written scene, read again at the network's size, has the predicted cameras: poses and intrinsics."""
    backbone = depth_anything_3()
    found = predict_poses(backbone, photographs, tmp_path / "poses", max_size=56)
    assert (found.num_registered, found.num_photographs) == (5, 5)
    views = load_scene(tmp_path / "poses").views(range(5), max_size=56)
    with torch.no_grad():
        again = backbone(views)
    assert again.cameras is not None
    torch.testing.assert_close(again.cameras.Ks, views.cameras.Ks, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(again.cameras.viewmats, views.cameras.viewmats, rtol=1e-3, atol=1e-3)


def test_a_network_that_predicts_no_poses_says_so(photographs, tmp_path):
    with pytest.raises(ValueError, match="does not predict poses"):
        predict_poses(depthsplat(), photographs, tmp_path)


def test_depthsplat_on_a_posed_scene(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({f"encoder.{name}": value for name, value in depthsplat().network.state_dict().items()}, path)
    options = ("--weights", path, "--max-size", 64, "--num-context", 2, "--steps", 2)
    assert reconstruct(EXAMPLE, tmp_path / "out", *options) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_gaussians"] == 2 * 48 * 64
    assert results["weights"]["sha256"] in capsys.readouterr().out


def test_what_is_no_weights_is_one_line(tmp_path, capsys):
    (tmp_path / "x.pth").write_bytes(b"nothing")
    assert reconstruct(EXAMPLE, tmp_path, "--weights", tmp_path / "x.pth") == 1
    assert "x.pth" in capsys.readouterr().err
