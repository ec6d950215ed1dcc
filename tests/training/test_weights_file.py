# SPDX-License-Identifier: Apache-2.0
"""Weights files: what was written is read, in half precision, with card and settings; what is broken is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ns_diff3r.backbones import UncertaintyHeadConfig
from ns_diff3r.backbones.compact import tiny_config
from ns_diff3r.data import CollectionConfig
from ns_diff3r.training.config import LossConfig
from ns_diff3r.training.loop import TrainingLoop
from ns_diff3r.training.run import RunFolder, RunSettings
from ns_diff3r.training.weights import bundled_or_path, open_weights, sha256_of
from ns_diff3r.training.weights_file import (
    ModelCard,
    bundled_weights,
    is_weights_file,
    read_weights,
    write_weights,
)

ROOM = Path(__file__).resolve().parents[2] / "examples" / "room"
CARD = ModelCard("small", "generated scenes, seed 0", "Apache-2.0", "ns-diff3r fit --data generated", "none", "nobody")
SETTINGS = RunSettings(Path("/home/someone/generated"), tiny_config(), UncertaintyHeadConfig(hidden_dim=4))


@pytest.fixture
def module():
    module = SETTINGS.module()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    module.tto.curvature_scale.average.fill_(1.23456e-7)  # below what half precision holds
    return module


def test_what_is_written_is_read(module, tmp_path):
    path = tmp_path / "small.safetensors"
    write_weights(path, SETTINGS, module, 17, CARD)
    found = read_weights(path)
    assert (found.step, found.card) == (17, CARD)
    assert found.settings.backbone == SETTINGS.backbone
    assert not found.module.training
    for name, value in found.module.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, dict(module.named_parameters())[name].half().float())
    assert torch.equal(found.module.tto.curvature_scale.average, module.tto.curvature_scale.average)
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in module.parameters()) + 40_000
    assert b"someone" not in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]


def test_such_a_file_opens_as_weights(module, tmp_path):
    path = tmp_path / "small.safetensors"
    write_weights(path, SETTINGS, module, 17, CARD)
    assert is_weights_file(path)
    network = open_weights(path)
    assert (network.step, network.checkpoint, network.sha256) == (17, path, sha256_of(path))
    page = CARD.markdown(network.settings, network.step, network.sha256)
    for text in ("generated scenes, seed 0", "Apache-2.0", "ns-diff3r fit", network.sha256, "seeds: weights 0"):
        assert text in page


def test_values_that_half_precision_lacks_are_refused(module, tmp_path):
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = 1e6
    name = next(iter(dict(module.named_parameters())))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        write_weights(tmp_path / "small.safetensors", SETTINGS, module, 0, CARD)
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_named(module, tmp_path):
    path = tmp_path / "small.safetensors"
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        read_weights(path)
    save_file({"a": torch.zeros(2)}, path)
    assert not is_weights_file(path)
    with pytest.raises(ValueError, match="not a weights file of ns-diff3r"):
        read_weights(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"small\.safetensors"):
        read_weights(path)
    write_weights(path, replace(SETTINGS, uncertainty=UncertaintyHeadConfig(hidden_dim=8)), module, 1, CARD)
    with pytest.raises(ValueError, match="do not fit this network"):
        read_weights(path)
    save_file(load_file(path), path, {"format": "ns_diff3r weights 1", "settings": "{", "step": "1", "card": "{}"})
    with pytest.raises(ValueError, match="broken header"):
        read_weights(path)


def test_a_card_says_everything():
    with pytest.raises(ValueError, match=r"ModelCard\.licence is empty"):
        replace(CARD, licence=" ")


def test_bundled_files_are_found_by_name(module, tmp_path, monkeypatch):
    assert bundled_weights(tmp_path / "absent") == []
    write_weights(tmp_path / "vanilla.safetensors", SETTINGS, module, 17, CARD)
    monkeypatch.setattr("ns_diff3r.training.weights_file.FOLDER", tmp_path)
    assert bundled_or_path("vanilla") == tmp_path / "vanilla.safetensors"
    assert open_weights("vanilla").step == 17
    with pytest.raises(FileNotFoundError, match=r"full: no such file .* come with the package \(vanilla\)"):
        open_weights("full")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vanilla").mkdir()
    assert bundled_or_path("vanilla") == Path("vanilla")  # what is there comes first


def test_runs_begin_with_weights_and_are_opened_without_them(module, tmp_path):
    path = tmp_path / "small.safetensors"
    write_weights(path, SETTINGS, module, 17, CARD)
    settings = replace(SETTINGS, data=ROOM, collection=CollectionConfig(max_size=16), weights=path)
    settings = replace(settings, training=replace(settings.training, num_steps=1, losses=LossConfig(lpips="off")))
    loop = TrainingLoop(settings, RunFolder(tmp_path / "run"))
    begun = {name: value.clone() for name, value in loop.module.network.named_parameters()}
    assert all(torch.equal(begun[name], value.half().float()) for name, value in module.network.named_parameters())
    list(loop.run())
    path.unlink()
    trained = open_weights(tmp_path / "run").module.network.state_dict()
    assert any(not torch.equal(trained[name], value) for name, value in begun.items())
