# SPDX-License-Identifier: Apache-2.0
"""Runs on disk: a run that was killed continues to the bit as if it had not been."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ns_diff3r.backbones import UncertaintyHeadConfig
from ns_diff3r.data import CollectionConfig, SamplerConfig
from ns_diff3r.training.checkpoint import last_complete_checkpoint, load_checkpoint, save_checkpoint
from ns_diff3r.training.loop import TrainingLoop
from ns_diff3r.training.run import RunFolder, RunSettings, load_fit_checkpoint, read_metrics
from ns_diff3r.training.weights import open_weights
from tests.training.doubles import ToyConfig, make_config

REPOSITORY = Path(__file__).resolve().parents[2]
ROOM = REPOSITORY / "examples" / "room"
TIMES = "seconds"


def run_settings(num_steps: int = 8, accumulation: int = 1) -> RunSettings:
    return RunSettings(
        data=ROOM,
        backbone=ToyConfig(dropout=0.2),
        uncertainty=UncertaintyHeadConfig(hidden_dim=4, num_layers=1),
        collection=CollectionConfig(max_size=16),
        sampler=SamplerConfig(num_targets=2),
        training=make_config(
            pretrain_steps=num_steps // 2, num_steps=num_steps, inner_steps=2, gradient_accumulation=accumulation
        ),
    )


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_loop(folder: Path, settings: RunSettings | None = None, save_every: int = 3) -> TrainingLoop:
    return TrainingLoop(run_settings() if settings is None else settings, RunFolder(folder), save_every)


def results(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics without times, and the last checkpoint."""
    records = [
        {name: value for name, value in record.items() if not name.startswith(TIMES)}
        for record in read_metrics(folder / "metrics.jsonl")
    ]
    path = last_complete_checkpoint(folder / "checkpoints")
    assert path is not None
    return records, load_checkpoint(path)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_a_run_leaves_settings_metrics_and_one_checkpoint(tmp_path):
    loop = make_loop(tmp_path)
    steps = [record.step for record in loop.run()]
    assert steps == list(range(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl", "settings.json"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000008.ckpt"]
    records, state = results(tmp_path)
    assert [record["step"] for record in records] == steps
    assert [record["stage"] for record in records] == ["pretrain"] * 4 + ["bilevel"] * 4
    assert records[-1]["gradient_norm_uncertainty_head"] > 0
    assert state["step"] == 8
    network = open_weights(tmp_path)
    assert (network.settings, network.step) == (run_settings(), 8)
    assert not network.module.training
    assert_same(network.module.state_dict(), state["module"])
    assert int(network.module.tto.curvature_scale.num_updates) == 4


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 7, 8])
def test_a_run_that_was_left_continues_to_the_bit(stop_after, accumulation, tmp_path):
    settings = run_settings(accumulation=accumulation)
    list(make_loop(tmp_path / "whole", settings).run())
    steps = make_loop(tmp_path / "cut", settings).run()
    for _ in range(stop_after):
        next(steps)
    del steps
    torch.manual_seed(99)  # another process has another random state
    loop = make_loop(tmp_path / "cut", settings)
    assert loop.steps_done <= stop_after
    assert loop.steps_done % accumulation == 0
    list(loop.run())
    for found, expected in zip(results(tmp_path / "cut"), results(tmp_path / "whole"), strict=True):
        assert_same(found, expected)


def test_checkpoints_are_not_written_within_an_accumulation(tmp_path):
    settings = run_settings(num_steps=12, accumulation=3)
    loop = TrainingLoop(settings, RunFolder(tmp_path), save_every=4, keep_checkpoints=True)
    list(loop.run())
    found = sorted(int(path.stem[5:]) for path in (tmp_path / "checkpoints").iterdir())
    assert found == [6, 9, 12]


def test_a_finished_run_takes_no_further_step(tmp_path):
    list(make_loop(tmp_path).run())
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert list(make_loop(tmp_path).run()) == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_line_that_was_cut_off_is_written_again(tmp_path):
    list(make_loop(tmp_path / "whole").run())
    steps = make_loop(tmp_path / "cut").run()
    for _ in range(4):
        next(steps)
    del steps
    file = tmp_path / "cut" / "metrics.jsonl"
    file.write_text(file.read_text()[:-20])
    list(make_loop(tmp_path / "cut").run())
    assert_same(results(tmp_path / "cut")[0], results(tmp_path / "whole")[0])


def test_a_checkpoint_of_another_method_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"step": 3, "pipeline": {}}, tmp_path / "checkpoints" / "step-000000003.ckpt")
    with pytest.raises(
        ValueError, match=r"000000003.ckpt: not a checkpoint of ns-diff3r fit \(it holds step, pipeline\)"
    ):
        make_loop(tmp_path)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    list(make_loop(tmp_path).run())
    other = replace(run_settings(), uncertainty=UncertaintyHeadConfig(hidden_dim=5, num_layers=0))
    with pytest.raises(ValueError, match=r"do not fit this network: .*unexpected .*uncertainty_head"):
        make_loop(tmp_path, other)
    assert RunFolder(tmp_path).changed_settings(other) == ["uncertainty.hidden_dim", "uncertainty.num_layers"]
    assert RunFolder(tmp_path).changed_settings(run_settings()) == []


def test_a_run_from_before_a_setting_was_there_can_be_continued(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(run_settings())
    stored = json.loads(folder.settings_file.read_text())
    del stored["sampler"]["flip_probability"], stored["training"]["trunk"]
    folder.settings_file.write_text(json.dumps(stored))
    assert folder.changed_settings(run_settings()) == []
    other = replace(run_settings(), sampler=replace(run_settings().sampler, flip_probability=0.5))
    assert folder.changed_settings(other) == ["sampler.flip_probability"]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        open_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_weights(tmp_path / "step-000000001.ckpt")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings.json: broken"):
        RunFolder(tmp_path).stored_settings()


def test_an_output_that_cannot_be_written_is_named_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to"):
        make_loop(tmp_path / "file" / "run")


def test_metrics_hold_no_nan(tmp_path):
    loop = make_loop(tmp_path)
    loop.module.outer_loss = lambda images, truth: {"mse": (images - truth).square().mean() * float("inf")}  # pyright: ignore
    next(loop.run())
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name))["skipped_scenes"] == 1.0


def test_a_checkpoint_is_enough_to_open_a_run(tmp_path):
    list(make_loop(tmp_path).run())
    path = last_complete_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    moved = tmp_path / "elsewhere.ckpt"
    path.rename(moved)
    network = open_weights(moved)
    assert network.settings == run_settings()
    assert network.checkpoint == moved
    assert network.sha256 == hashlib.sha256(moved.read_bytes()).hexdigest()
    assert_same(network.module.state_dict(), load_fit_checkpoint(moved)["module"])


@pytest.mark.parametrize("prefix", ["_model.core.", "_model.module.core.", "module._model.core."])
def test_a_checkpoint_of_nerfstudio_opens_with_the_settings_beside_it(prefix, tmp_path):
    list(make_loop(tmp_path / "fit").run())
    state = results(tmp_path / "fit")[1]
    pipeline = {f"{prefix}{name}": value for name, value in state["module"].items()}
    run = tmp_path / "ns"
    path = save_checkpoint(run / "nerfstudio_models", 7, {"step": 7, "pipeline": {**pipeline, "other": torch.ones(1)}})
    with pytest.raises(FileNotFoundError, match=r"no settings.json beside it"):
        open_weights(run)
    (run / "settings.json").write_bytes((tmp_path / "fit" / "settings.json").read_bytes())
    for place in (run, run / "nerfstudio_models", path):
        network = open_weights(place)
        assert network.settings == run_settings()
        assert network.step == 7
        assert_same(network.module.state_dict(), state["module"])
    torch.save({"step": 3, "weights": {}}, path)
    with pytest.raises(ValueError, match=r"another method \(it holds step, weights\)"):
        open_weights(run)
