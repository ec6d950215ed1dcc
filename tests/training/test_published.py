# SPDX-License-Identifier: Apache-2.0
"""Runs that begin with published weights: nothing to pretrain, nothing of the frozen backbone in checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ns_diff3r.backbones import DepthSplatConfig, UncertaintyHeadConfig
from ns_diff3r.training.network import build_network
from ns_diff3r.training.published import begin_with_published_weights, names_left_out
from ns_diff3r.training.published_state import MARK
from ns_diff3r.training.run import NETWORK_PREFIX, load_weights
from ns_diff3r.training.step import TrainingModule
from tests.backbones.official_views import depthsplat
from tests.training.doubles import make_batch, make_config


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A file as the authors publish them, with random weights."""
    path = tmp_path_factory.mktemp("hub") / "depthsplat.pth"
    network = depthsplat().network
    torch.save({f"encoder.{name}": value for name, value in network.state_dict().items()}, path)
    return path


def make_module(checkpoint: Path | None, pretrain_steps: int = 0) -> TrainingModule:
    config = DepthSplatConfig(checkpoint=None if checkpoint is None else str(checkpoint))
    network = build_network(config, UncertaintyHeadConfig(), seed=1)
    return TrainingModule(network, make_config(pretrain_steps=pretrain_steps))


def begin(module: TrainingModule) -> list[str]:
    said: list[str] = []
    begin_with_published_weights(module.network, module.config, said.append)
    return said


def test_a_checkpoint_names_the_frozen_backbone_and_finds_it_again(official, tmp_path):
    module = make_module(official)
    assert official.name in begin(module)[-1]
    state = module.state_dict()
    assert "network." + MARK in state
    assert not any("depth_predictor" in name for name in state)
    assert any("gaussian_head" in name for name in state)
    assert any("uncertainty_head" in name for name in state)
    torch.save(state, tmp_path / "run.ckpt")
    assert (tmp_path / "run.ckpt").stat().st_size < official.stat().st_size / 2

    other = make_module(official)
    load_weights(other, torch.load(tmp_path / "run.ckpt", weights_only=True), "run.ckpt")
    for (name, value), (_, expected) in zip(
        other.network.named_parameters(), module.network.named_parameters(), strict=True
    ):
        assert torch.equal(value, expected), name
    assert "network." + MARK in other.state_dict()
    load_weights(other, module.state_dict(), "again")  # into one that holds them already


def test_a_file_named_from_the_folder_of_the_run_is_found_from_another(official, tmp_path, monkeypatch):
    monkeypatch.chdir(official.parent)
    module = make_module(Path(official.name))
    begin(module)
    monkeypatch.chdir(tmp_path)
    other = make_module(Path(official.name))
    load_weights(other, module.state_dict(), "run.ckpt")
    assert other.network.published.path == official
    (tmp_path / official.name).write_bytes(b"another file of this name")
    with pytest.raises(ValueError, match="SHA-256"):
        load_weights(make_module(Path(official.name)), module.state_dict(), "run.ckpt")


def test_what_checkpoints_will_not_hold_is_known_before(official):
    module = make_module(official)
    left_out = names_left_out(module.network, NETWORK_PREFIX)
    begin(module)
    held = set(module.state_dict())
    assert left_out == {name for name, _ in module.named_parameters()} - held
    assert names_left_out(make_module(official, pretrain_steps=2).network, NETWORK_PREFIX) == set()
    assert names_left_out(make_module(None).network, NETWORK_PREFIX) == set()


def test_a_file_that_changed_since_is_refused(official, tmp_path):
    first, copy = tmp_path / "first.pth", tmp_path / "moved.pth"
    first.write_bytes(official.read_bytes())
    module = make_module(first)
    begin(module)
    copy.write_bytes(official.read_bytes())
    load_weights(make_module(copy), module.state_dict(), "run.ckpt")  # the file may lie elsewhere
    state = torch.load(official, weights_only=True)
    state["encoder.gaussian_head.2.bias"] += 1
    torch.save(state, copy)
    with pytest.raises(ValueError, match="SHA-256"):
        load_weights(make_module(copy), module.state_dict(), "run.ckpt")
    other = make_module(copy)
    begin(other)  # holds the changed file already
    with pytest.raises(ValueError, match="SHA-256"):
        load_weights(other, module.state_dict(), "run.ckpt")
    copy.unlink()
    first.unlink()
    with pytest.raises(ValueError, match="no such file"):
        load_weights(make_module(copy), module.state_dict(), "run.ckpt")


def test_a_backbone_that_is_trained_is_held(official):
    module = make_module(official, pretrain_steps=2)
    begin(module)
    state = module.state_dict()
    assert "network." + MARK not in state
    assert any("depth_predictor" in name for name in state)
    frozen = make_module(official)
    load_weights(frozen, state, "run.ckpt")
    assert any("depth_predictor" in name for name in frozen.state_dict())


def test_random_weights_that_nothing_trains_are_mentioned():
    assert "random weights" in begin(make_module(None))[0]
    assert begin(make_module(None, pretrain_steps=2)) == []


def test_before_the_first_step_the_scene_is_the_published_networks(official):
    """PSNR before test-time optimisation at step 0 is that of the published model."""
    module, batch = make_module(official), make_batch(size=32)
    begin(module)
    network = DepthSplatConfig().setup()
    state = torch.load(official, weights_only=True)
    network.network.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()})
    expected = network.eval()(batch.context).gaussians
    module.eval()
    with torch.no_grad():
        actual = module.network(batch.context).gaussians
        image = module.draw(expected, batch.targets.cameras)
        output = module([batch], 0)
    assert all(torch.equal(a, e) for a, e in zip(actual.leaves(), expected.leaves(), strict=True))
    error = (image.clamp(0, 1) - batch.targets.images).square().flatten(1).mean(1)
    assert output.scalars["psnr_before"] == pytest.approx(float(-10 * error.log10().mean()), abs=1e-4)


def test_a_run_that_is_continued_keeps_its_own_head(official):
    module = make_module(official)
    begin(module)
    with torch.no_grad():
        for parameter in module.network.backbone.gaussian_head_parameters():
            parameter += 0.5
    other = make_module(official)
    load_weights(other, module.state_dict(), "run.ckpt")
    pairs = zip(
        other.network.backbone.gaussian_head_parameters(),
        module.network.backbone.gaussian_head_parameters(),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_settings_hold_the_reference(official):
    from ns_diff3r.training.settings import from_plain, to_plain

    config = replace(DepthSplatConfig(), checkpoint=str(official), size="base")
    assert from_plain(DepthSplatConfig, to_plain(config)) == config
