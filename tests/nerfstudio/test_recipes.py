# SPDX-License-Identifier: Apache-2.0
"""scripts/recipes: every command line is one that the registered methods take, and says what the recipe says."""

import json
import os
import shlex
import subprocess

import pytest

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

import tyro  # noqa: E402
from nerfstudio.configs.method_configs import all_methods  # noqa: E402

from ns_diff3r.data import open_collection  # noqa: E402
from ns_diff3r.data.chunk_conversion import scenes_to_chunks  # noqa: E402
from ns_diff3r.data.mixture import read_mixture  # noqa: E402
from ns_diff3r.training.stages import GROUP_NAMES, Stage  # noqa: E402
from tests.conftest import REPOSITORY  # noqa: E402
from tests.nerfstudio.conftest import ROOM, executable, small_environment  # noqa: E402

FOLDER = REPOSITORY / "scripts" / "recipes"
RECIPES = {"depthsplat_re10k": (32, 150_000), "posed_re10k": (8, 5000), "posed_re10k_global_lambda": (8, 5000)}
RECIPES["unposed"] = (8, 5000)
"""Scenes of an update, and updates."""
ARRANGEMENTS = [(1, 1), (2, 4), (8, 1)]


def line_of(recipe: str, *arguments: str, status: int = 0, **environment: str) -> str:
    """What the recipe prints; of an error, its message."""
    names = ("DEVICES", "SCENES_PER_STEP", "BATCH", "UPDATES", "OUTPUT", "NS_TRAIN", "LAMBDA")
    done = subprocess.run(
        ["bash", str(FOLDER / f"{recipe}.sh"), *arguments],
        env={**{k: v for k, v in os.environ.items() if k not in names}, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def config_of(recipe: str, *arguments: str, **environment: str):
    """The config that ns-train makes of the recipe's line."""
    program, *line = shlex.split(line_of(recipe, "--print", *arguments, **environment))
    assert program == "ns-train"
    ours = {name: config for name, config in all_methods.items() if name.startswith("diff3r")}
    methods = tyro.conf.SuppressFixed[
        tyro.conf.FlagConversionOff[tyro.extras.subcommand_type_from_defaults(defaults=ours)]
    ]
    return tyro.cli(methods, args=line)


def test_every_recipe_is_here():
    assert {path.stem for path in FOLDER.glob("*.sh")} == {*RECIPES, "common"}
    assert all(os.access(FOLDER / f"{name}.sh", os.X_OK) for name in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("devices", "scenes"), ARRANGEMENTS)
def test_ns_train_takes_the_line_and_the_batch_is_the_same_on_any_machine(recipe, devices, scenes):
    config = config_of(recipe, "/data", "--timestamp", "mine", DEVICES=str(devices), SCENES_PER_STEP=str(scenes))
    batch, updates = RECIPES[recipe]
    training, sampler = config.pipeline.model.training, config.pipeline.datamanager.sampler
    assert (config.machine.num_devices, sampler.scenes_per_step) == (devices, scenes)
    assert devices * scenes * training.gradient_accumulation == batch
    assert config.max_num_iterations == updates * training.gradient_accumulation
    assert str(config.data) == "/data"
    assert config.timestamp == "mine"
    assert not config.mixed_precision
    assert sampler.flip_probability == 0.5
    assert sampler.num_targets == 4
    for group in GROUP_NAMES:
        optimizer = getattr(training, group)
        if group != "uncertainty_head" or recipe != "depthsplat_re10k":
            assert optimizer.max_norm == 0.5
    assert training.trunk.pretrain_rate == pytest.approx(0.01 * training.backbone.pretrain_rate, rel=1e-6) or (
        recipe == "unposed" and training.trunk.pretrain_rate == pytest.approx(0.1 * training.backbone.pretrain_rate)
    )


def test_what_the_recipes_say():
    config = config_of("depthsplat_re10k", "/data")
    sampler, training = config.pipeline.datamanager.sampler, config.pipeline.model.training
    assert (sampler.selection, sampler.gap_start, sampler.gap_end) == ("bounded", (25, 45), (45, 135))
    assert sampler.warmup_steps == 30_000 * training.gradient_accumulation
    assert training.stages.boundary(config.max_num_iterations) == config.max_num_iterations
    assert config.pipeline.datamanager.collection.image_size == (256, 256)
    for recipe, context, steps in (("posed_re10k", 2, 50), ("unposed", 4, 300)):
        config = config_of(recipe, "/data")
        training = config.pipeline.model.training
        assert config.pipeline.datamanager.sampler.num_context == context
        assert training.tto_steps_eval == steps
        assert training.stages.stage(0, 100) is Stage.BILEVEL
        assert training.stages.trained_groups(Stage.BILEVEL) == {"gaussian_head", "uncertainty_head"}
        assert training.uncertainty_head.bilevel_rate == 1e-3
    config = config_of("posed_re10k_global_lambda", "/data", LAMBDA="3")
    assert config.pipeline.model.training.uncertainty_head.base_rate == 0.0
    assert config.pipeline.model.uncertainty_head.initial == 3.0


def test_the_mixture_of_the_paper_is_read():
    pytest.importorskip("yaml")
    sources = {source.name: source for source in read_mixture(FOLDER / "unposed_mixture.yaml")}
    assert set(sources) == {"re10k", "dl3dv", "scannet", "scannetpp", "arkitscenes", "hypersim"}
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    assert {source.dataparser for source in sources.values()} - {None} <= set(all_dataparsers)


def test_a_batch_that_cannot_be_spread_is_an_error():
    assert "BATCH=8 is no multiple of DEVICES=3 times SCENES_PER_STEP=1" in line_of(
        "unposed", "/data", status=1, DEVICES="3"
    )
    assert "UPDATES must be a whole number above 0, not '1e3'" in line_of("unposed", "/data", status=1, UPDATES="1e3")
    assert "usage: " in line_of("unposed", status=1)


@pytest.mark.slow
def test_a_recipe_trains(tmp_path):
    """Two updates of two scenes each, small, from random weights, on a mixture with chunks of the bundled scene."""
    scenes_to_chunks(open_collection(ROOM), tmp_path / "chunks")
    sources = [{"path": "chunks", "selection": "bounded", "gap": [4, 8]}]
    (tmp_path / "mixture.json").write_text(json.dumps({"sources": sources}))
    small = ("--pipeline.datamanager.collection.image-size", "42", "56", "--pipeline.model.training.tto.num-steps", "2")
    small += ("--pipeline.model.backbone.checkpoint", "None", "--pipeline.model.backbone.size", "small")
    small += ("--pipeline.model.training.losses.lpips", "off", "--timestamp", "run")
    names = {"BATCH": "2", "UPDATES": "2", "OUTPUT": str(tmp_path / "out"), "NS_TRAIN": executable("ns-train")}
    done = subprocess.run(
        ["bash", str(FOLDER / "unposed.sh"), str(tmp_path / "mixture.json"), *small],
        env=small_environment() | names,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "out").rglob("step-000000003.ckpt"))
