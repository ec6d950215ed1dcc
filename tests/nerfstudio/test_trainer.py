# SPDX-License-Identifier: Apache-2.0
"""Training by our trainer, within this process: checkpoints, resume, learning rates, and `fit` beside it."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

import yaml  # noqa: E402
from nerfstudio.engine.optimizers import AdamOptimizerConfig  # noqa: E402
from nerfstudio.engine.schedulers import CosineDecaySchedulerConfig  # noqa: E402

from ns_diff3r.configs.optimizers import group_optimizers  # noqa: E402
from ns_diff3r.training.checkpoint import load_checkpoint  # noqa: E402
from ns_diff3r.training.config import GroupOptimizer, TrainingConfig  # noqa: E402
from ns_diff3r.training.loop import TrainingLoop  # noqa: E402
from ns_diff3r.training.run import RunFolder  # noqa: E402
from ns_diff3r.training.stages import StageConfig  # noqa: E402
from ns_diff3r.training.weights import open_weights  # noqa: E402
from tests.nerfstudio.conftest import ROOM, small_config  # noqa: E402
from tests.nerfstudio.in_process import failing, train  # noqa: E402

BOTH_STAGES = {"stages": StageConfig(pretrain_steps=3)}


def same_weights(first, second) -> bool:
    states = [load_checkpoint(path)["pipeline"] for path in (first, second)]
    assert set(states[0]) == set(states[1])
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Losses and last checkpoint of six steps through both stages."""
    config = small_config(ROOM, tmp_path_factory.mktemp("uninterrupted"), **BOTH_STAGES)
    config.max_num_iterations = 6
    losses, folder = train(config)
    return losses, folder


def test_a_run_leaves_one_checkpoint_and_nothing_beside_it(uninterrupted):
    losses, folder = uninterrupted
    assert [path.name for path in folder.iterdir()] == ["step-000000005.ckpt"]
    assert [record["step"] for record in losses] == list(range(6))
    assert "outer_mse" in losses[0]
    assert "auxiliary_mse" in losses[3]
    present = {path.name.split(".")[0] for path in folder.parent.iterdir()}
    assert {"config", "settings", "dataparser_transforms", "nerfstudio_models", "events"} == present


@pytest.mark.parametrize("stop", [2, 4], ids=["within stage 1", "within stage 2"])
def test_a_run_that_is_continued_takes_the_same_steps_to_the_bit(stop, uninterrupted, tmp_path):
    losses, folder = uninterrupted
    first = small_config(ROOM, tmp_path / "first", **BOTH_STAGES)
    first.max_num_iterations = 6
    first.save_config()
    trainer = first.setup()
    trainer.setup()
    trainer.pipeline.train()
    for step in range(stop):
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, callback.where_to_run[0])
        trainer.train_iteration(step)
    trainer.save_checkpoint(stop - 1)

    second = small_config(ROOM, tmp_path / "second", **BOTH_STAGES)
    second.max_num_iterations, second.load_dir = 6, trainer.checkpoint_dir
    torch.manual_seed(99)  # nothing of a step depends on torch's random state
    second.save_config()
    resumed = second.setup()
    resumed.setup()
    resumed.pipeline.train()
    assert resumed._start_step == stop
    for step in range(stop, 6):
        loss, _, _ = resumed.train_iteration(step)
        assert float(loss.detach()) == losses[step]["loss"]
    resumed.save_checkpoint(5)
    assert same_weights(resumed.checkpoint_dir / "step-000000005.ckpt", folder / "step-000000005.ckpt")


def test_fit_takes_the_same_steps(uninterrupted, tmp_path):
    losses, folder = uninterrupted
    trained = open_weights(folder.parent)  # by the settings.json of the run
    loop = TrainingLoop(trained.settings, RunFolder(tmp_path / "fit"), save_every=100)
    for record, ours in zip(loop.run(), losses, strict=True):
        terms = {name: float(term.detach()) for name, term in record.output.losses.items()}
        assert terms == {name: value for name, value in ours.items() if name not in ("step", "loss")}
    state = load_checkpoint(folder / "step-000000005.ckpt")["pipeline"]
    for name, value in loop.module.state_dict().items():
        assert torch.equal(value, state[f"_model.core.{name}"]), name


def test_settings_json_opens_the_run_without_nerfstudio(uninterrupted):
    _, folder = uninterrupted
    trained = open_weights(folder.parent)
    assert trained.settings.data == ROOM
    assert trained.step == 5
    assert "ns_diff3r.training.config:TrainingConfig" in (folder.parent / "settings.json").read_text()
    assert json.loads((folder.parent / "settings.json").read_text())["training"]["num_steps"] == 6


def test_the_broken_end_of_a_run_is_passed_over(uninterrupted, tmp_path):
    """A newer file that was cut off (by a copy, a disk) does not stop a resume."""
    _, folder = uninterrupted
    whole = (folder / "step-000000005.ckpt").read_bytes()
    (tmp_path / "step-000000005.ckpt").write_bytes(whole)
    (tmp_path / "step-000000009.ckpt").write_bytes(whole[: len(whole) // 2])
    config = small_config(ROOM, tmp_path / "out", **BOTH_STAGES)
    config.load_dir = tmp_path
    trainer = config.setup()
    trainer.setup()
    assert trainer._start_step == 6


def test_gradients_are_accumulated_and_no_checkpoint_splits_them(tmp_path):
    config = small_config(ROOM, tmp_path, gradient_accumulation=3, **BOTH_STAGES)
    config.max_num_iterations = 6
    trainer = config.setup()
    trainer.setup()
    trainer.pipeline.train()
    weight = trainer.pipeline.get_param_groups()["gaussian_head"][-1]  # of the last layer, which begins at zero
    values = []
    for step in range(6):
        trainer.train_iteration(step)
        if step == 0:
            trainer.save_checkpoint(step)
            assert not list(trainer.checkpoint_dir.glob("*"))
        values.append(weight.detach().clone())
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])
    assert torch.equal(values[2], values[4])
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000002.ckpt"]


def test_optimizers_of_nerfstudio_can_be_chosen_and_their_checkpoints_load(tmp_path):
    """Its schedulers store numpy scalars."""
    config = small_config(ROOM, tmp_path, **BOTH_STAGES)
    chosen = {"optimizer": AdamOptimizerConfig(lr=1e-3), "scheduler": CosineDecaySchedulerConfig(warm_up_end=2)}
    config.optimizers = {"backbone": chosen}
    trainer = config.setup()
    trainer.setup()
    assert type(trainer.optimizers.optimizers["backbone"]) is torch.optim.Adam
    trainer.pipeline.train()
    for step in range(3):
        trainer.train_iteration(step)
    trainer.save_checkpoint(2)
    assert load_checkpoint(trainer.checkpoint_dir / "step-000000002.ckpt")["step"] == 2
    config.load_dir = trainer.checkpoint_dir
    again = config.setup()
    again.setup()
    assert again._start_step == 3


def test_a_run_begins_from_a_stored_config(tmp_path):
    """ns-train --load-config."""
    config = small_config(ROOM, tmp_path, **BOTH_STAGES)
    config.save_config()
    loaded = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    losses, folder = train(loaded)
    assert [record["step"] for record in losses] == [0, 1, 2, 3]
    assert folder.parent == config.get_base_dir()


def test_optimizers_have_the_settings_of_training():
    settings = GroupOptimizer(
        pretrain_rate=0.3,
        bilevel_rate=0.4,
        weight_decay=0.5,
        betas=(0.6, 0.7),
        epsilon=0.8,
        max_norm=0.9,
    )
    made = group_optimizers(TrainingConfig(gaussian_head=settings), {})["gaussian_head"]["optimizer"]
    assert (made.lr, made.eps, made.max_norm, made.betas, made.weight_decay) == (0.4, 0.8, 0.9, (0.6, 0.7), 0.5)
    (group,) = made.setup([torch.nn.Parameter(torch.zeros(2))]).param_groups
    assert (group["lr"], group["eps"], group["betas"], group["weight_decay"]) == (0.4, 0.8, (0.6, 0.7), 0.5)


def test_learning_rates_follow_the_stages_in_plain_floats(tmp_path):
    config = small_config(ROOM, tmp_path, **BOTH_STAGES)
    config.max_num_iterations = 6
    trainer = config.setup()
    trainer.setup()
    trainer.pipeline.train()
    rates, clipping = [], []
    for step in range(6):
        rates.append({name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.optimizers.items()})
        clipping.append({o.clip_quantile for o in trainer.optimizers.optimizers.values()})
        trainer.train_iteration(step)
    assert all(type(rate) is float for record in rates for rate in record.values())
    assert rates[1]["backbone"] > 0 == rates[4]["backbone"]  # frozen in the second stage
    assert rates[1]["uncertainty_head"] == 0 < rates[4]["uncertainty_head"]
    assert clipping[1] == {None}
    assert clipping[4] == {None, 0.25}
    for scheduler in trainer.optimizers.schedulers.values():
        assert all(type(rate) is float for rate in scheduler.state_dict()["_last_lr"])


def test_a_finished_run_goes_on(uninterrupted, tmp_path):
    _, folder = uninterrupted
    config = small_config(ROOM, tmp_path, **BOTH_STAGES)
    config.load_dir, config.max_num_iterations = folder, 2
    losses, continued = train(config)
    assert [record["step"] for record in losses] == [6, 7]
    assert open_weights(continued.parent).settings.training.num_steps == 8


def test_weights_of_another_run_to_begin_with(uninterrupted, tmp_path, capsys):
    _, folder = uninterrupted
    config = small_config(ROOM, tmp_path)
    config.weights = folder.parent
    trainer = config.setup()
    trainer.setup()
    assert trainer._start_step == 0
    expected = load_checkpoint(folder / "step-000000005.ckpt")["pipeline"]
    assert all(torch.equal(value, expected[name]) for name, value in trainer.pipeline.state_dict().items())
    assert "sha256" in capsys.readouterr().out
    config.weights = tmp_path / "absent"
    assert "no such file or folder" in failing(config, capsys)
    config = small_config(ROOM, tmp_path)
    config.weights, config.pipeline.model.backbone.width = folder.parent, 8
    assert "do not fit" in failing(config, capsys)


def test_weights_that_come_with_the_package(tmp_path, capsys):
    config = small_config(ROOM, tmp_path)
    assert config.weights == Path("diff3r-tiny")  # small_config is that method's
    trainer = config.setup()
    trainer.setup()
    bundled = open_weights("diff3r-tiny")
    state = trainer.pipeline.model.core.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in bundled.module.state_dict().items())
    assert json.loads((trainer.base_dir / "settings.json").read_text())["weights"].endswith("diff3r-tiny.safetensors")
    config = small_config(ROOM, tmp_path / "wider")
    config.pipeline.model.backbone.width = 24
    trainer = config.setup()
    trainer.setup()
    assert "are of another network and are left out" in capsys.readouterr().out
    assert json.loads((trainer.base_dir / "settings.json").read_text())["weights"] is None
