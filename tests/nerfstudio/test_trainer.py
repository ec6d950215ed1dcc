# SPDX-License-Identifier: Apache-2.0
"""The trainer within this process: devices, errors before training, checkpoints, resume, and `fit` beside it."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.engine.optimizers import AdamOptimizerConfig  # noqa: E402
from nerfstudio.engine.schedulers import CosineDecaySchedulerConfig  # noqa: E402
from nerfstudio.utils import writer  # noqa: E402

from ns_diff3r import compat, extension  # noqa: E402
from ns_diff3r.compat import resolve_device_type, usable_device  # noqa: E402
from ns_diff3r.configs.optimizers import group_optimizers  # noqa: E402
from ns_diff3r.data import CollectionConfig  # noqa: E402
from ns_diff3r.resuming import plan_run  # noqa: E402
from ns_diff3r.run_checks import check_space, check_writable  # noqa: E402
from ns_diff3r.training.checkpoint import load_checkpoint  # noqa: E402
from ns_diff3r.training.config import GroupOptimizer, TrainingConfig  # noqa: E402
from ns_diff3r.training.loop import TrainingLoop  # noqa: E402
from ns_diff3r.training.run import RunFolder  # noqa: E402
from ns_diff3r.training.stages import StageConfig  # noqa: E402
from ns_diff3r.training.weights import open_weights  # noqa: E402
from tests.nerfstudio.conftest import ROOM, scene_of, small_config  # noqa: E402

BOTH_STAGES = {"stages": StageConfig(pretrain_steps=3)}


@pytest.fixture(autouse=True)
def fresh_writers():
    """nerfstudio's event writers are global, and a second run adds to those of the first."""
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()


def train(config) -> tuple[list[dict[str, float]], Path]:
    """Run to the end; (loss terms of every step, checkpoint folder)."""
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    losses = []
    plain = trainer.train_iteration

    def recorded(step):
        loss, terms, metrics = plain(step)
        losses.append({"step": step, "loss": float(loss.detach()), **{k: float(v.detach()) for k, v in terms.items()}})
        return loss, terms, metrics

    trainer.train_iteration = recorded
    trainer.train()
    return losses, trainer.checkpoint_dir


def same_weights(first: Path, second: Path) -> bool:
    states = [load_checkpoint(path)["pipeline"] for path in (first, second)]
    assert set(states[0]) == set(states[1])
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- devices ---


def test_the_device_is_chosen_where_nothing_is_said(monkeypatch):
    for has_device, has_kernels, expected in ((False, True, "cpu"), (True, False, "cpu"), (True, True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has_device: has)
        monkeypatch.setattr(extension, "device_types", lambda has=has_kernels: ("cpu", "cuda") if has else ("cpu",))
        assert resolve_device_type("auto") == expected
        assert usable_device("cuda:1").type == expected
        assert usable_device("cpu").type == "cpu"


def test_a_device_that_is_asked_for_and_cannot_be_used_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(extension, "device_types", lambda: ("cpu", "cuda"))
    with pytest.raises(ValueError, match="finds no CUDA device"):
        resolve_device_type("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device_type("cuda") == "cuda"
    monkeypatch.setattr(extension, "device_types", lambda: ("cpu",))
    with pytest.raises(ValueError, match="no CUDA kernels"):
        resolve_device_type("cuda")
    with pytest.raises(ValueError, match="mps"):
        resolve_device_type("mps")


def test_config_yml_leaves_the_device_open(tmp_path, monkeypatch):
    monkeypatch.setattr(compat, "can_draw_on", lambda device_type: True)
    config = small_config(ROOM, tmp_path)
    config.save_config()
    assert "device_type: auto" in (config.get_base_dir() / "config.yml").read_text()
    assert config.machine.device_type == "cuda"  # nerfstudio's launcher chooses its communication by this


# --- what is said before training starts ---


def failing(config, capsys) -> str:
    """The message with which a run ends before its first step."""
    with pytest.raises(SystemExit) as ended:
        train(config)
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "Traceback" not in shown
    return " ".join(shown.split())


def test_a_missing_or_empty_folder_and_unknown_scenes(tmp_path, capsys):
    assert "no such file or folder" in failing(small_config(tmp_path / "absent", tmp_path), capsys)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in failing(small_config(tmp_path / "empty", tmp_path), capsys)
    config = small_config(ROOM, tmp_path)
    config.eval_scenes = ("kitchen",)
    assert "there is no scene 'kitchen'" in failing(config, capsys)
    assert "at least 2" in failing(small_config(scene_of(1, tmp_path / "one"), tmp_path), capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission(tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "the output folder cannot be written" in failing(small_config(ROOM, tmp_path / "closed"), capsys)


def test_an_output_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "the output folder cannot be written" in failing(small_config(ROOM, tmp_path / "file"), capsys)
    with pytest.raises(OSError, match="cannot be written"):
        check_writable(tmp_path / "file" / "below")


def test_a_full_disk(tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("ns_diff3r.run_checks.shutil.disk_usage", lambda folder: usage)
    message = failing(small_config(ROOM, tmp_path), capsys)
    assert "1 MiB are free" in message
    check_space(tmp_path, torch.nn.Linear(4, 4))


def test_checkpoints_that_are_not_there(tmp_path, capsys):
    for name, value in (("load_dir", tmp_path / "absent"), ("load_checkpoint", tmp_path / "absent.ckpt")):
        config = small_config(ROOM, tmp_path)
        setattr(config, name, value)
        assert "--load-" in failing(config, capsys)
    config = small_config(ROOM, tmp_path)
    config.load_dir = tmp_path
    assert "no complete checkpoint" in failing(config, capsys)
    config.load_step = 7
    assert "--load-step 7" in failing(config, capsys)


def test_a_checkpoint_of_another_method(tmp_path, capsys):
    state = {"step": 3, "optimizers": {"means": {}}, "schedulers": {}, "scalers": {}}
    state["pipeline"] = {"_model.gauss_params.means": torch.zeros(4, 3)}
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run" / "step-000000003.ckpt")
    config = small_config(ROOM, tmp_path)
    config.load_dir = tmp_path / "run"
    message = failing(config, capsys)
    assert "step-000000003.ckpt" in message
    assert "another method" in message
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    config.load_dir, config.load_checkpoint = None, tmp_path / "other.ckpt"
    assert "not a checkpoint of ns-train" in failing(config, capsys)


def test_wrong_settings(tmp_path, capsys):
    config = small_config(ROOM, tmp_path)
    config.pipeline.datamanager.collection = CollectionConfig(max_size=32, near=3.0, far=2.0)
    assert "near and far" in failing(config, capsys)
    config = small_config(ROOM, tmp_path)
    config.pipeline.model.lpips_metric = "off"
    losses = config.pipeline.model.training.losses
    object.__setattr__(losses, "lpips", "on")
    object.__setattr__(losses, "vgg_weights", tmp_path / "absent.pth")
    assert "absent.pth" in failing(config, capsys)


def test_a_traceback_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv("NS_DIFF3R_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no such file or folder"):
        small_config(tmp_path / "absent", tmp_path / "out").setup().setup()


# --- training ---


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Losses and last checkpoint of six steps through both stages."""
    writer.EVENT_WRITERS.clear()
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
    writer.EVENT_WRITERS.clear()

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
    writer.EVENT_WRITERS.clear()
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
        pretrain_rate=0.3, bilevel_rate=0.4, weight_decay=0.5, betas=(0.6, 0.7), epsilon=0.8, max_norm=0.9
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
    rates = []
    for step in range(6):
        rates.append({name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.optimizers.items()})
        trainer.train_iteration(step)
    assert all(type(rate) is float for record in rates for rate in record.values())
    assert rates[1]["backbone"] > 0 == rates[4]["backbone"]  # frozen in the second stage
    assert rates[1]["uncertainty_head"] == 0 < rates[4]["uncertainty_head"]
    for scheduler in trainer.optimizers.schedulers.values():
        assert all(type(rate) is float for rate in scheduler.state_dict()["_last_lr"])


@pytest.mark.parametrize(
    ("stored", "last", "wanted", "expected"),
    [
        (10, 5, 10, (6, 4, 10)),  # interrupted, the same command: to where it would have ended
        (10, 5, 4, (6, 4, 10)),  # interrupted, the rest by its number of steps
        (10, 5, 2, (6, 2, 10)),  # a part of the rest
        (10, 9, 10, (10, 10, 20)),  # finished: so many more
        (10, 9, 5, (10, 5, 15)),
        (None, 9, 5, (10, 5, 15)),  # a run without settings.json
    ],
)
def test_how_far_a_continued_run_goes(stored, last, wanted, expected, tmp_path):
    folder = tmp_path / "run" / "nerfstudio_models"
    folder.mkdir(parents=True)
    torch.save({"step": last}, folder / f"step-{last:09d}.ckpt")
    if stored is not None:
        (tmp_path / "run" / "settings.json").write_text(json.dumps({"training": {"num_steps": stored}}))
    config = small_config(ROOM, tmp_path)
    config.load_dir, config.max_num_iterations = folder, wanted
    plan = plan_run(config)
    assert (plan.first_step, plan.num_iterations, plan.num_steps) == expected
    torch.save({"step": last}, tmp_path / "renamed.ckpt")
    config.load_dir, config.load_checkpoint = None, tmp_path / "renamed.ckpt"
    assert plan_run(config).first_step == last + 1
    config.load_checkpoint = None
    plan = plan_run(config)
    assert (plan.checkpoint, plan.first_step, plan.num_iterations, plan.num_steps) == (None, 0, wanted, wanted)


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
