# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r fit` with the official networks, at small sizes and from random weights, and from a mixture."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from ns_diff3r.cli.fit import Fit
from ns_diff3r.cli.fit_official import FitDepthAnything3, FitDepthSplat
from ns_diff3r.cli.main import _parse, main
from ns_diff3r.data import load_scene, open_collection
from ns_diff3r.training.run import read_metrics
from ns_diff3r.training.weights import open_weights
from tests.cli.test_fit_and_export import EXAMPLE, TINY

NETWORKS = {
    "depthsplat": (FitDepthSplat, "DepthSplatConfig"),
    "da3": (FitDepthAnything3, "DepthAnything3Config"),
}


def official(network: str, output: Path, *options: str, data: Path = EXAMPLE) -> int:
    """Both stages of a small run."""
    return main(
        [
            *("fit", network, "--data", str(data), "--output", str(output), "--backbone.checkpoint", "None"),
            *("--backbone.size", "small", "--collection.max-size", "48", "--sampler.num-context", "2"),
            *("--sampler.num-targets", "1", "--training.num-steps", "2", "--training.tto.num-steps", "2"),
            *("--training.tto-steps-eval", "2", "--training.stages.pretrain-steps", "1", "--threads", "1"),
            *("--training.losses.lpips", "off", "--lpips-metric", "off", *options),
        ]
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_both_stages_of_an_official_network(network, tmp_path, capsys):
    threads = torch.get_num_threads()
    assert official(network, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "trunk 2" in shown  # of parameters, twenty-two million
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["backbone"]["class"].endswith(NETWORKS[network][1])
    assert [record["stage"] for record in read_metrics(tmp_path / "metrics.jsonl")] == ["pretrain", "bilevel"]
    assert "gradient_norm_trunk" in read_metrics(tmp_path / "metrics.jsonl")[0]
    assert (tmp_path / "evaluation.json").is_file()
    trained = open_weights(tmp_path)
    assert type(trained.settings.backbone).__name__ == NETWORKS[network][1]
    assert official(network, tmp_path, "--no-evaluate") == 0  # the same command again takes no step
    assert "continuing after step 2" in capsys.readouterr().out
    torch.set_num_threads(threads)


def test_photographs_without_poses(tmp_path, capsys):
    """One pass of the network gives them, once for all."""
    for name in ("photographs", "others/photographs", "one"):
        (tmp_path / name).mkdir(parents=True)
        for image in sorted((EXAMPLE / "images").iterdir())[: 1 if name == "one" else 5]:
            shutil.copy(image, tmp_path / name)
    threads = torch.get_num_threads()
    options = ("--training.num-steps", "1", "--no-evaluate")
    for shown in ("5 photographs without poses", "continuing after step 1"):
        assert official("da3", tmp_path / "run", *options, data=tmp_path / "photographs") == 0
        assert shown in capsys.readouterr().out
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["data"] == str(tmp_path / "run" / "poses" / "photographs")
    assert load_scene(settings["data"]).num_frames == 5
    for network, data, message in (
        ("da3", "others/photographs", "holds poses of other photographs"),
        ("da3", "one", "one: 1 readable photograph without poses"),
        ("depthsplat", "photographs", "photographs, but no camera poses"),
    ):
        output = tmp_path / ("run" if data.startswith("others") else f"{network} {data}")
        assert official(network, output, *options, data=tmp_path / data) == 1
        assert message in capsys.readouterr().err
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("always::ns_diff3r.data.SceneWarning")
def test_folders_of_photographs_without_poses(tmp_path, capsys):
    """Each becomes a scene; one with too few photographs is left out, which is said."""
    data = tmp_path / "data"
    for name, count in (("a/images", 3), ("b", 4), ("few", 1)):
        (data / name).mkdir(parents=True)
        for image in sorted((EXAMPLE / "images").iterdir())[:count]:
            shutil.copy(image, data / name)
    threads = torch.get_num_threads()
    options = ("--training.num-steps", "1", "--no-evaluate")
    assert official("da3", tmp_path / "run", *options, data=data) == 0
    assert "few: 1 readable photograph without poses" in capsys.readouterr().err
    poses = tmp_path / "run" / "poses" / "data"
    assert open_collection(poses).names == ("a", "b")
    assert [load_scene(poses / name).num_frames for name in ("a", "b")] == [3, 4]

    (poses / "b" / "transforms.json").unlink()  # killed between the two
    written = (poses / "a" / "transforms.json").stat().st_mtime_ns
    assert official("da3", tmp_path / "run", *options, data=data) == 0
    shown = capsys.readouterr().out
    assert "continuing after step 1" in shown
    assert "4 photographs without poses" in shown
    assert (poses / "a" / "transforms.json").stat().st_mtime_ns == written
    assert load_scene(poses / "b").num_frames == 4

    shutil.rmtree(data / "a")
    shutil.rmtree(data / "b")
    shutil.copytree(data / "few", data / "as few")
    assert official("da3", tmp_path / "other", *options, data=data) == 1
    assert "in none of its 2 folders of photographs without poses" in capsys.readouterr().err
    torch.set_num_threads(threads)


@pytest.mark.parametrize("network", NETWORKS)
def test_they_begin_as_ns_train_does(network):
    command = _parse(["fit", network, "--data", "x"])
    assert type(command) is NETWORKS[network][0]
    assert command.backbone.checkpoint == "official"
    assert command.training.stages.boundary(command.training.num_steps) == 0
    assert [f.name for f in fields(command)] == [f.name for f in fields(Fit)]


@pytest.mark.nerfstudio
def test_ns_train_and_fit_have_the_same_settings():
    pytest.importorskip("nerfstudio")
    from ns_diff3r.configs import methods

    for network in NETWORKS:
        command = _parse(["fit", network, "--data", "x"])
        pipeline = getattr(methods, f"diff3r_{network}").config.pipeline
        assert command.backbone == pipeline.model.backbone
        assert command.collection == pipeline.datamanager.collection
        assert command.sampler == pipeline.datamanager.sampler
        for field in fields(command.training):
            if field.name != "num_steps":
                assert getattr(command.training, field.name) == getattr(pipeline.model.training, field.name)


def test_the_compact_network_needs_no_word():
    options = ["--data", "x", "--backbone.width", "8"]
    plain, named = (_parse(["fit", *words, *options]) for words in ((), ("compact",)))
    assert type(plain) is type(named) is Fit
    assert plain == named
    assert plain.backbone.width == 8
    with pytest.raises(SystemExit):
        _parse(["fit", "pixelsplat", "--data", "x"])


def test_weights_that_are_not_to_be_had_end_it_in_one_line(tmp_path, capsys):
    """No network: a checkpoint that is not there."""
    arguments = ["fit", "depthsplat", "--data", str(EXAMPLE), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--backbone.checkpoint", str(tmp_path / "no.pth")]) == 1
    assert "no.pth" in capsys.readouterr().err


def test_fit_takes_a_mixture_and_continues_it(tmp_path, capsys):
    """A run that stops half way and one that does not take the same steps."""
    generated = {"num_scenes": 4, "num_evaluation_scenes": 0, "num_views": 6, "num_textures": 16}
    sources = [
        {"path": str(EXAMPLE), "baseline": [0.2, 0.4]},
        {"path": "generated", "evaluate": False, "generated": generated},
    ]
    (tmp_path / "mixture.json").write_text(json.dumps({"sources": sources}))
    threads = torch.get_num_threads()
    shared = ["fit", "--data", str(tmp_path / "mixture.json"), *TINY, "--no-evaluate", "--save-every", "3"]
    shared += ["--sampler.flip-probability", "0.5", "--keep-checkpoints"]
    assert main([*shared, "--output", str(tmp_path / "whole")]) == 0
    assert main([*shared, "--output", str(tmp_path / "halved")]) == 0
    (tmp_path / "halved" / "checkpoints" / "step-000000006.ckpt").unlink()
    assert main([*shared, "--output", str(tmp_path / "halved")]) == 0
    assert "continuing after step 3" in capsys.readouterr().out
    losses = [[r["loss"] for r in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "halved")]
    assert losses[0] == losses[1]
    sources[0]["weight"] = 2
    (tmp_path / "mixture.json").write_text(json.dumps({"sources": sources}))
    assert main([*shared, "--output", str(tmp_path / "whole")]) == 1
    assert "holds a run with other settings (mixture_sha256)" in capsys.readouterr().err
    torch.set_num_threads(threads)
