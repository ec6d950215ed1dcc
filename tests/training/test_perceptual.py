# SPDX-License-Identifier: Apache-2.0
"""LPIPS by the package `lpips` against an independent computation, and the search for VGG's weights."""

import builtins
import hashlib
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from ns_diff3r.training import perceptual
from ns_diff3r.training.config import LossConfig
from ns_diff3r.training.losses import OuterLoss
from ns_diff3r.training.perceptual import VGG_FILE, VGG_VARIABLE, Lpips, find_lpips, find_vgg_weights

CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512,
                28: 512}  # fmt: skip
"""Layer number in torchvision's vgg16.features → channels."""
POOLINGS = (4, 9, 16, 23, 30)
TAPS = (3, 8, 15, 22, 29)
"""The last activation before each pooling: relu1_2, 2_2, 3_3, 4_3, 5_3."""


@pytest.fixture(scope="module")
def vgg_state() -> dict[str, Tensor]:
    """Random weights that keep the size of activations, and a classifier that is not used."""
    generator = torch.Generator().manual_seed(0)
    state, incoming = {}, 3
    for layer, channels in CONVOLUTIONS.items():
        deviation = (2 / (9 * incoming)) ** 0.5
        state[f"features.{layer}.weight"] = deviation * torch.randn(channels, incoming, 3, 3, generator=generator)
        state[f"features.{layer}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        incoming = channels
    state["classifier.0.weight"] = torch.zeros(2, 2)
    return state


@pytest.fixture
def weights_file(vgg_state, tmp_path) -> Path:
    path = tmp_path / "vgg.pth"
    torch.save(vgg_state, path)
    return path


@pytest.fixture(autouse=True)
def _no_weights_by_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.delenv(VGG_VARIABLE, raising=False)


def images(size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, size, size + 5, 3, generator=generator), torch.rand(2, size, size + 5, 3, generator=generator)


def activations(image: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """Unit feature vectors of one image [H, W, 3] in [0, 1] at the five taps, from the definition."""
    mean, deviation = image.new_tensor([-0.030, -0.088, -0.188]), image.new_tensor([0.458, 0.448, 0.450])
    x = ((2 * image - 1 - mean) / deviation).permute(2, 0, 1)[None]
    found = []
    for layer in range(31):
        if layer in CONVOLUTIONS:
            x = conv2d(
                x, state[f"features.{layer}.weight"].double(), state[f"features.{layer}.bias"].double(), padding=1
            )
        elif layer in POOLINGS:
            x = max_pool2d(x, 2)
        else:
            x = relu(x)
        if layer in TAPS:
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    return found


def reference(image: Tensor, truth: Tensor, state: dict[str, Tensor]) -> float:
    """Σ over taps of the mean over pixels of Σ over channels w (difference of unit features)²."""
    package = pytest.importorskip("lpips")
    with resources.as_file(resources.files(package) / "weights" / "v0.1" / "vgg.pth") as path:
        linear = torch.load(path, map_location="cpu", weights_only=True)
    pairs = zip(activations(image.double(), state), activations(truth.double(), state), strict=True)
    total = 0.0
    for tap, (one, other) in enumerate(pairs):
        weight = linear[f"lin{tap}.model.1.weight"].double().flatten()[:, None, None]
        total += float((weight * (one - other)[0].square()).sum(0).mean())
    return total


def test_lpips_is_its_definition(vgg_state):
    pytest.importorskip("lpips")
    metric = Lpips(vgg_state)
    first, second = images()
    found = metric(first, second)
    assert found.shape == (2,)
    for value, image, truth in zip(found, first, second, strict=True):
        assert float(value) == pytest.approx(reference(image, truth, vgg_state), rel=1e-4)
    assert float(metric(first, first).abs().max()) == 0.0


def test_lpips_is_differentiable_in_the_image_and_keeps_its_weights(vgg_state):
    pytest.importorskip("lpips")
    metric = Lpips(vgg_state)
    first, second = images(16)
    first.requires_grad_()
    metric(first, second).mean().backward()
    assert first.grad is not None
    assert float(first.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in metric.network.parameters())
    with pytest.raises(ValueError, match="at least 16 pixels"):
        metric(first[:, :15], second[:, :15])


def test_the_outer_loss_adds_lpips(weights_file):
    pytest.importorskip("lpips")
    loss = OuterLoss(LossConfig(lpips="on", lpips_weight=0.5, vgg_weights=weights_file))
    first, second = images(16)
    terms = loss(first, second)
    assert list(terms) == ["mse", "lpips"]
    torch.testing.assert_close(terms["lpips"], 0.5 * loss.lpips(first, second).mean())  # pyright: ignore
    torch.testing.assert_close(terms["mse"], (first - second).square().mean())
    assert "MSE + 0.5 LPIPS (VGG16 from" in loss.description


def test_weights_are_named_with_their_hash(weights_file, monkeypatch):
    pytest.importorskip("lpips")
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    metric, note = find_lpips(weights_file)
    assert metric is not None
    assert f"sha256 {digest}" in note
    assert "NOT torchvision" in note
    monkeypatch.setattr(perceptual, "VGG_FILE", f"vgg16-{digest[:8]}.pth")
    assert "NOT" not in find_lpips(weights_file)[1]


def test_where_weights_are_looked_for(weights_file, tmp_path, monkeypatch):
    assert find_vgg_weights() is None
    cached = tmp_path / "torch-home" / "hub" / "checkpoints" / VGG_FILE
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_vgg_weights() == cached
    monkeypatch.setenv(VGG_VARIABLE, str(weights_file))
    assert find_vgg_weights() == weights_file
    assert find_vgg_weights(cached) == cached
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth: no such file of VGG16 weights"):
        find_vgg_weights(tmp_path / "nowhere.pth")


def test_without_weights_the_term_is_left_out_or_an_error():
    pytest.importorskip("lpips")
    loss = OuterLoss(LossConfig(lpips="auto"))
    assert loss.lpips is None
    assert "MSE without LPIPS" in loss.description
    assert VGG_FILE in loss.description
    assert list(loss(*images(8))) == ["mse"]
    with pytest.raises(FileNotFoundError, match="LPIPS was asked for"):
        OuterLoss(LossConfig(lpips="on"))
    assert OuterLoss(LossConfig(lpips="off")).description == "outer loss: MSE, LPIPS switched off"


def test_without_the_package_the_term_is_left_out_or_an_error(weights_file, monkeypatch):
    original = builtins.__import__

    def refuse(name: str, *arguments: object, **options: object) -> object:
        if name == "lpips":
            raise ImportError(name)
        return original(name, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert find_lpips(weights_file) == (None, "LPIPS left out: the package lpips is not installed")
    with pytest.raises(ImportError, match="pip install"):
        find_lpips(weights_file, required=True)


@pytest.mark.parametrize("fault", ["missing", "shape", "list"])
def test_a_file_without_vggs_weights_is_named(fault, vgg_state, tmp_path):
    pytest.importorskip("lpips")
    state = dict(vgg_state)
    if fault == "missing":
        del state["features.17.weight"]
    elif fault == "shape":
        state["features.17.weight"] = torch.zeros(1)
    path = tmp_path / "other.pth"
    torch.save([1] if fault == "list" else state, path)
    with pytest.raises(ValueError, match=r"other.pth: .*(features.17.weight|state dict)"):
        find_lpips(path)
