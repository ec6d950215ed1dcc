# SPDX-License-Identifier: Apache-2.0
"""What is settled before the first step: the device, how far the run goes, and one clear error for bad input."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig  # noqa: E402

from ns_diff3r import compat, extension  # noqa: E402
from ns_diff3r.compat import resolve_device_type, usable_device  # noqa: E402
from ns_diff3r.data import CollectionConfig  # noqa: E402
from ns_diff3r.resuming import plan_run  # noqa: E402
from ns_diff3r.run_checks import check_space, check_writable  # noqa: E402
from tests.nerfstudio.conftest import ROOM, make_pipeline, scene_of, small_config  # noqa: E402
from tests.nerfstudio.in_process import failing  # noqa: E402

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


# --- how far a run goes ---


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


# --- what is said before training starts ---


def test_a_missing_or_empty_folder_and_unknown_scenes(tmp_path, capsys):
    assert "no such file or folder" in failing(small_config(tmp_path / "absent", tmp_path), capsys)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in failing(small_config(tmp_path / "empty", tmp_path), capsys)
    config = small_config(ROOM, tmp_path)
    config.eval_scenes = ("kitchen",)
    assert "there is no scene 'kitchen'" in failing(config, capsys)
    assert "at least 2" in failing(small_config(scene_of(1, tmp_path / "one"), tmp_path), capsys)


def at_one_point(content):
    for frame in content["frames"]:
        for row in frame["transform_matrix"][:3]:
            row[3] = 0.5


def without_poses(content):
    for frame in content["frames"]:
        frame["transform_matrix"][0][3] = float("nan")


def spoiled(change, folder: Path) -> Path:
    """A scene whose transforms.json is changed."""
    scene = scene_of(4, folder)
    content = json.loads((scene / "transforms.json").read_text())
    change(content)
    (scene / "transforms.json").write_text(json.dumps(content))
    return scene


@pytest.mark.parametrize(
    ("change", "ours", "nerfstudios"),
    [
        (lambda content: content.pop("fl_x"), "fl_x is missing", "fx not specified"),
        (at_one_point, "all 4 cameras are at one point", "Nerfstudio cannot read it: ZeroDivisionError"),
        (without_poses, "00.jpg: its pose (transform_matrix) holds a NaN", "its pose (transform_matrix) holds a NaN"),
        (
            lambda content: content.update(camera_model="OPENCV_FISHEYE"),
            "camera_model 'OPENCV_FISHEYE' is not supported",
            "was taken by a fisheye camera",
        ),
        (lambda content: content.update(ply_file_path="images/00.jpg"), "not a readable point cloud", None),
    ],
)
def test_scenes_that_cannot_be(change, ours, nerfstudios, tmp_path, capsys):
    """With our dataparser, and with nerfstudio's, whose own faults are named as well."""
    scene = spoiled(change, tmp_path / "scene")
    assert ours in failing(small_config(scene, tmp_path / "ours"), capsys)
    if nerfstudios is not None:
        config = small_config(scene, tmp_path / "nerfstudios")
        config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig()
        message = failing(config, capsys)
        assert nerfstudios in message
        assert str(scene) in message


def test_photographs_that_cannot_be_used_are_named_and_left_out(tmp_path, capsys):
    scene = scene_of(6, tmp_path / "scene")
    (scene / "images" / "02.jpg").write_bytes((scene / "images" / "02.jpg").read_bytes()[:1000])
    (scene / "images" / "03.jpg").unlink()
    make_pipeline(small_config(scene, tmp_path))
    shown = " ".join(capsys.readouterr().out.split())
    assert "02.jpg: not a readable image" in shown
    assert "03.jpg: no such image" in shown
    (scene / "images" / "04.jpg").unlink()
    (scene / "images" / "05.jpg").unlink()
    (scene / "images" / "00.jpg").unlink()
    assert "1 of 6 photographs can be used, at least 2 are needed" in failing(small_config(scene, tmp_path), capsys)


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


def test_a_disk_that_fills_during_training(tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ns_diff3r.training.checkpoint.torch.save", full)
    message = failing(small_config(ROOM, tmp_path), capsys)
    assert "000000003.ckpt: the checkpoint could not be written: No space left on device" in message


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
