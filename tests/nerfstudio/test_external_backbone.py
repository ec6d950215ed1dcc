# SPDX-License-Identifier: Apache-2.0
"""A backbone of another package, installed beside this one: its config's `_target` is all that connects them."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]

from ns_diff3r.training.checkpoint import checkpoints, load_checkpoint  # noqa: E402
from tests.nerfstudio.conftest import ROOM, SMALL  # noqa: E402

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "flat-splats"
version = "1.0"

[project.entry-points."nerfstudio.method_configs"]
flat-splats = "flat_splats.methods:flat_splats"
"""

BACKBONE = '''
from dataclasses import dataclass, field

import torch
from ns_diff3r import Gaussians
from ns_diff3r.backbones import Backbone, BackboneConfig, Prediction


@dataclass
class FlatConfig(BackboneConfig):
    """A wall of Gaussians in the middle of the depth range of every view."""

    _target: type = field(default_factory=lambda: FlatBackbone)
    hidden_dim: int = 4
    """Width of the only layer."""


class FlatBackbone(Backbone):
    sh_degree = 0

    def __init__(self, config):
        super().__init__()
        self.feature_dim = config.hidden_dim
        self.trunk = torch.nn.Linear(3, config.hidden_dim)
        self.head = torch.nn.Linear(config.hidden_dim, 4)

    def gaussian_head_parameters(self):
        return self.head.parameters()

    def forward(self, context):
        cameras, (count, height, width, _) = context.cameras, context.images.shape
        depth = (0.5 / context.near + 0.5 / context.far).reciprocal()[:, None, None, None]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        rays = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.Ks), pixels)
        local = rays * depth - cameras.viewmats[:, None, None, :3, 3]
        means = torch.einsum("vji,vhwj->vhwi", cameras.viewmats[:, :3, :3], local)
        features = torch.tanh(self.trunk(context.images))
        raw = self.head(features)
        size = (0.6 * depth / cameras.Ks[:, None, None, :1, 0]).log().expand(count, height, width, 3)
        number = count * height * width
        gaussians = Gaussians(
            means=means.reshape(number, 3),
            quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(number, 1),
            scales=size.reshape(number, 3),
            opacities=raw[..., 3].reshape(number),
            sh0=((context.images - 0.5) / 0.2820948 + 0.1 * raw[..., :3]).reshape(number, 1, 3),
            shN=torch.zeros(number, 0, 3),
        )
        return Prediction(gaussians, features.reshape(number, -1), (count, height, width))
'''

METHODS = """
from copy import deepcopy

from nerfstudio.plugins.types import MethodSpecification
from ns_diff3r.configs.methods import diff3r_tiny

from .backbone import FlatConfig

_config = deepcopy(diff3r_tiny.config)
_config.method_name = "flat-splats"
_config.pipeline.model.backbone = FlatConfig()
flat_splats = MethodSpecification(config=_config, description="A method of another package.")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """An environment in which the package is installed."""
    pytest.importorskip("setuptools")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "flat_splats").mkdir()
    files = {"pyproject.toml": PROJECT, "flat_splats/__init__.py": "", "flat_splats/backbone.py": BACKBONE}
    for name, text in {**files, "flat_splats/methods.py": METHODS}.items():
        (source / name).write_text(text)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": str(target) + (os.pathsep + path if path else "")}


def test_train_resume_and_eval(installed, command, tmp_path):
    options = ("flat-splats", "--data", ROOM, "--output-dir", tmp_path, "--steps-per-save", 2, *SMALL)
    width = ("--pipeline.model.backbone.hidden-dim", 5)  # its settings are on the command line
    command("ns-train", *options, *width, "--timestamp", "first", "--max-num-iterations", 4, **installed)
    first, second = (tmp_path / "room" / "flat-splats" / name for name in ("first", "second"))
    assert "flat_splats.backbone.FlatBackbone" in (first / "config.yml").read_text()
    (ended,) = checkpoints(first / "nerfstudio_models")
    state = load_checkpoint(ended)
    assert state["pipeline"]["_model.core.network.backbone.trunk.weight"].shape == (5, 3)

    resume = ("--timestamp", "second", "--max-num-iterations", 2, "--load-dir", first / "nerfstudio_models")
    command("ns-train", *options, *width, *resume, **installed)
    (ended,) = checkpoints(second / "nerfstudio_models")
    assert ended.name == "step-000000005.ckpt"
    trained = load_checkpoint(ended)["pipeline"]["_model.core.network.backbone.head.weight"]
    assert not torch.equal(trained, state["pipeline"]["_model.core.network.backbone.head.weight"])

    figures = tmp_path / "figures.json"
    command("ns-eval", "--load-config", second / "config.yml", "--output-path", figures, **installed)
    results = json.loads(figures.read_text())["results"]
    assert results["num_gaussians"] == 2 * 36 * 48
    assert results["psnr_gain"] > 0
