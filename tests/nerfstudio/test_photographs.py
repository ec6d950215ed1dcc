# SPDX-License-Identifier: Apache-2.0
"""`ns-train diff3r-da3` on photographs without poses: the run has a scene of its own, which every command reads."""

import json
import shutil

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

import yaml  # noqa: E402

from ns_diff3r.data import load_scene  # noqa: E402
from tests.nerfstudio.conftest import ROOM, small_config  # noqa: E402


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in sorted((ROOM / "images").iterdir())[:5]:
        shutil.copy(image, folder)
    return folder


def config_of(data, output, method="diff3r-da3"):
    """As ns-train makes it of `--data`, before it calls save_config."""
    config = small_config(data, output, method)
    config.data = data
    config.pipeline.datamanager.collection.max_size = 42
    config.pipeline.model.backbone.checkpoint = None
    config.pipeline.model.backbone.size = "small"
    return config


def saved(config):
    config.save_config()
    return yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)


def test_the_run_has_a_scene_of_its_own(photographs, tmp_path, capsys):
    config = config_of(photographs, tmp_path / "outputs")
    stored = saved(config)
    base = tmp_path / "outputs" / "photographs" / "diff3r-da3" / "run"
    assert config.get_base_dir() == base
    assert "5 photographs without poses" in capsys.readouterr().out
    data = stored.pipeline.datamanager
    assert stored.data == data.data == data.dataparser.data == base / "poses" / "photographs"
    scene = load_scene(data.data)
    assert [frame.image_path.resolve() for frame in scene.frames] == sorted(photographs.iterdir())

    # What ns-eval, ns-viewer, ns-render and ns-export open.
    pipeline = stored.pipeline.setup(device="cpu", test_mode="test")
    assert pipeline.datamanager.collection.names == ("photographs",)
    assert pipeline.datamanager.eval_dataset[0]["image"].shape == (31, 42, 3)
    result = pipeline.refresh_scene(num_steps=0)
    assert result.after.num_gaussians == len(pipeline.context_frames) * 28 * 42

    # The poses are those of the weights that the run begins with.
    backbone = pipeline.model.core.network.backbone
    views = scene.views(range(5), max_size=42)
    with torch.no_grad():
        again = backbone.eval()(views)
    torch.testing.assert_close(again.cameras.viewmats, views.cameras.viewmats, rtol=1e-3, atol=1e-3)


def test_folders_of_photographs_become_scenes_of_the_run(photographs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photographs, data / "a" / "images")
    shutil.copytree(photographs, data / "b")
    stored = saved(config_of(data, tmp_path / "outputs"))
    assert stored.data == stored.get_base_dir() / "poses" / "data"
    pipeline = stored.pipeline.setup(device="cpu", test_mode="test")
    assert pipeline.datamanager.collection.names == ("a", "b")


def test_a_run_that_is_continued_keeps_its_poses(photographs, tmp_path):
    first = saved(config_of(photographs, tmp_path / "outputs"))
    checkpoints = first.get_checkpoint_dir()
    checkpoints.mkdir()
    config = config_of(photographs, tmp_path / "outputs")
    config.timestamp, config.load_dir = "later", checkpoints
    file = first.data / "transforms.json"
    content = json.loads(file.read_text())
    content["frames"][0]["fl_x"] = 123.0
    file.write_text(json.dumps(content))
    assert saved(config).data == first.data
    assert json.loads(file.read_text())["frames"][0]["fl_x"] == 123.0


@pytest.mark.parametrize("case", ["one", "none readable", "given poses", "other network"])
def test_what_cannot_be_used_ends_in_one_line(case, photographs, tmp_path, capsys):
    config = config_of(photographs, tmp_path / "outputs")
    expected = "photographs: 1 readable photograph without poses, and at least 2 are needed"
    if case == "one":
        for image in sorted(photographs.iterdir())[1:]:
            image.unlink()
    elif case == "none readable":
        for image in photographs.iterdir():
            image.write_bytes(b"no image")
        expected = "photographs: 0 readable photographs without poses"
    elif case == "given poses":
        config.pipeline.model.backbone.poses = "given"
        expected = "photographs, but no camera poses"
    else:
        config = small_config(photographs, tmp_path / "outputs")
        expected = "and diff3r-da3 predicts them"

    def begin():
        config.save_config()
        config.setup(local_rank=0, world_size=1).setup()

    with pytest.raises(SystemExit) as ended:
        begin()
    assert ended.value.code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert expected in shown


@pytest.mark.slow
def test_the_command(command, photographs, tmp_path):
    options = ("--pipeline.model.backbone.checkpoint", "None", "--pipeline.model.backbone.size", "small")
    options += ("--pipeline.datamanager.collection.max-size", 42, "--pipeline.model.training.tto.num-steps", 2)
    options += ("--pipeline.model.training.tto-steps-eval", 2, "--pipeline.model.training.losses.lpips", "off")
    options += ("--pipeline.model.lpips-metric", "off", "--vis", "tensorboard", "--max-num-iterations", 1)
    command("ns-train", "diff3r-da3", "--data", photographs, "--output-dir", tmp_path, "--timestamp", "run", *options)
    run = tmp_path / "photographs" / "diff3r-da3" / "run"
    assert (run / "poses" / "photographs" / "transforms.json").is_file()
    assert json.loads((run / "settings.json").read_text())["data"] == str(run / "poses" / "photographs")
    assert list((run / "nerfstudio_models").iterdir())
