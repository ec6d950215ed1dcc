# SPDX-License-Identifier: Apache-2.0
"""The data source "generated", as samplers, runs and commands see it."""

import shutil
from pathlib import Path

import pytest
import torch

from ns_diff3r.cli.main import main
from ns_diff3r.data import BatchSampler, CollectionConfig, GeneratedConfig, SamplerConfig, SceneError, open_collection
from ns_diff3r.data.generated_collection import SCENES_IN_MEMORY
from ns_diff3r.data.generated_settings import lasting
from ns_diff3r.training.checkpoint import last_complete_checkpoint, load_checkpoint

GENERATED = GeneratedConfig(num_scenes=50, num_evaluation_scenes=2, num_views=10, num_textures=16)
OPTIONS = [
    *("--collection.generated.num-textures", "16", "--collection.generated.num-scenes", "40"),
    *("--collection.image-size", "16", "16", "--threads", "1"),
    *("--backbone.width", "8", "--backbone.matching-channels", "4", "--backbone.feature-channels", "8"),
    *("--backbone.num-depths", "8"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No folder called "generated" lies about."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def collection(**values):
    return open_collection("generated", CollectionConfig(image_size=(16, 20), generated=GENERATED, **values))


def test_samplers_choose_and_load_alike_in_any_order():
    first, second = (BatchSampler(SamplerConfig(num_targets=2), collection()) for _ in range(2))
    batches = {step: first.batch(step)[0] for step in (0, 7, 3)}
    for step in (3, 0, 7):
        again = second.batch(step)[0]
        assert again.name == batches[step].name
        assert torch.equal(again.context.images, batches[step].context.images)
        assert torch.equal(again.targets.images, batches[step].targets.images)
        assert again.context.images.shape == (2, 16, 20, 3)
        assert again.context.near is not None
    assert len({batch.name for batch in batches.values()}) == 3


def test_whole_scenes_and_images_are_held_out():
    found = collection()
    assert len(found.training_scenes) == 50
    assert found.evaluation_scenes == (50, 51)
    assert found.training_indices(3) == (0, 2, 3, 4, 5, 6, 7, 8)
    assert found.evaluation_indices(51) == (1, 9)
    items = BatchSampler(SamplerConfig(), found).evaluation_items(50)
    assert sorted(i for item in items for i in item.targets) == [1, 9]
    assert all(item.held_out for item in items)


def test_few_scenes_are_in_memory():
    found = collection(cache_megabytes=0)
    for index in range(SCENES_IN_MEMORY + 5):
        found.scene(index)
    assert found._made.cache_info().currsize == SCENES_IN_MEMORY  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        found.scene(52)


def test_views_have_a_size_without_one_being_asked_for():
    views = open_collection("generated", CollectionConfig(generated=GENERATED)).views(0, [0, 1])
    assert max(views.cameras.width, views.cameras.height) == 96


def test_a_folder_of_that_name_comes_first(tmp_path):
    (tmp_path / "generated").mkdir()
    with pytest.raises(SceneError, match="no scene found"):
        open_collection("generated")
    assert lasting("generated") == tmp_path / "generated"
    (tmp_path / "generated").rmdir()
    assert lasting("generated") == Path("generated")
    assert lasting("room") == tmp_path / "room"


def test_settings_are_checked():
    with pytest.raises(SceneError, match="num_evaluation_scenes"):
        open_collection("generated", CollectionConfig(eval_scenes=("a",)))
    with pytest.raises(SceneError, match="there is no kind"):
        open_collection("generated", CollectionConfig(generated=GeneratedConfig(kinds=("moon",))))
    with pytest.raises(SceneError, match="generated scenes are called 'generated'"):
        open_collection("generate")


def fit(steps: int) -> list[str]:
    options = ["--training.num-steps", str(steps), "--training.stages.pretrain-fraction", "1", "--save-every", "2"]
    return ["fit", "--data", "generated", *OPTIONS, *options, "--no-evaluate", "--training.losses.lpips", "off"]


def test_an_interrupted_run_continues_to_the_bit(tmp_path):
    assert main([*fit(4), "--output", "whole", "--keep-checkpoints"]) == 0
    shutil.copytree("whole", "cut")
    last = last_complete_checkpoint(Path("cut/checkpoints"))
    assert last is not None
    assert last.name == "step-000000004.ckpt"
    last.unlink()
    assert main([*fit(4), "--output", "cut"]) == 0
    states = [load_checkpoint(Path(run) / "checkpoints" / last.name)["module"] for run in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert '"data": "generated"' in Path("cut/settings.json").read_text()


def test_evaluate_judges_networks_with_and_without_weights(tmp_path, capsys):
    scenes = ["--collection.generated.num-evaluation-scenes", "1", "--collection.generated.num-views", "4"]
    assert main(["evaluate", "--data", "generated", *OPTIONS, *scenes, "--tto-steps", "0", "--output", "a.csv"]) == 0
    assert main([*fit(2), "--output", "run"]) == 0
    more = ["--weights", "run", "--tto-steps", "1"]
    assert main(["evaluate", "--data", "generated", *OPTIONS, *scenes, *more, "--output", "b.csv"]) == 0
    text = capsys.readouterr().out
    assert "the network before training" in text
    assert "after 2 steps, sha256" in text
    rows = [Path(name).read_text().splitlines() for name in ("a.csv", "b.csv")]
    assert rows[0][0].startswith("scene,image,held_out,psnr_before,psnr_after")
    assert rows[0][1].startswith("generated-000040,1,True,")
    assert rows[0] != rows[1]
    assert main(["evaluate", "--data", "generated", *OPTIONS, "--scenes", "moon"]) == 1
    assert "there is no 'moon'" in capsys.readouterr().err
