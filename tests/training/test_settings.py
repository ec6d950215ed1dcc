# SPDX-License-Identifier: Apache-2.0
"""Settings to JSON and back."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ns_diff3r.backbones import BackboneConfig, CompactConfig, UncertaintyHeadConfig
from ns_diff3r.data import CollectionConfig, SamplerConfig, SplitConfig
from ns_diff3r.solver import ImageLoss, LearningRates, PCGConfig, TTOConfig
from ns_diff3r.solver.backward import BackwardMode
from ns_diff3r.training.config import GroupOptimizer, LossConfig, TrainingConfig
from ns_diff3r.training.run import RunSettings
from ns_diff3r.training.settings import differences, from_plain, to_plain
from ns_diff3r.training.stages import StageConfig
from tests.training.doubles import ToyConfig


def settings(backbone: BackboneConfig | None = None) -> RunSettings:
    """Everything different from its default that can be."""
    return RunSettings(
        data=Path("somewhere/photos"),
        backbone=CompactConfig(width=16, sh_degree=2) if backbone is None else backbone,
        uncertainty=UncertaintyHeadConfig(granularity="parameter", initial=3.0),
        collection=CollectionConfig(
            split=SplitConfig(every=5), eval_scenes=("a", "b"), image_size=(48, 64), near=0.5, cache_megabytes=7
        ),
        sampler=SamplerConfig(num_context=3, selection="nearest", baseline_start=(0.1, 0.2), gap_start=(1, 4), seed=9),
        training=TrainingConfig(
            num_steps=123,
            stages=StageConfig(pretrain_steps=7, freeze_backbone=False),
            losses=LossConfig(lpips="off", vgg_weights=Path("vgg.pth")),
            tto=TTOConfig(
                num_steps=3,
                learning_rates=LearningRates(means=0.1),
                loss=ImageLoss(kind="huber"),
                pcg=PCGConfig(tolerance=0.5),
                frozen_groups=("quats", "shN"),
                background=(0.0, 0.5, 1.0),
                adam_betas=(0.8, 0.9),
            ),
            backbone=GroupOptimizer(max_norm=None, betas=(0.5, 0.6)),
        ),
    )


def through_json(value: RunSettings) -> RunSettings:
    return from_plain(RunSettings, json.loads(json.dumps(to_plain(value))))


@pytest.mark.parametrize("backbone", [None, ToyConfig(sh_degree=1)])
def test_settings_survive_json(backbone):
    before = settings(backbone)
    after = through_json(before)
    assert after == before
    assert type(after.backbone) is type(before.backbone)
    assert isinstance(after.training.tto.backward_mode, BackwardMode)
    assert isinstance(after.data, Path)
    assert isinstance(after.collection.eval_scenes, tuple)


def test_old_settings_load():
    """A field that came later gets its default, one that has gone is dropped, a class may have been renamed."""
    plain: Any = to_plain(settings())
    del plain["training"]["tto"]["pcg"]["refresh_every"]
    del plain["sampler"]
    plain["training"]["losses"]["gone"] = 3
    plain["training"]["class"] = "ns_diff3r.training.old_module:OldTrainingConfig"
    assert from_plain(RunSettings, plain) == replace(settings(), sampler=SamplerConfig())


def test_a_class_that_is_not_installed_is_named():
    plain: Any = to_plain(settings(ToyConfig()))
    plain["backbone"]["class"] = "package_of_someone:TheirConfig"
    with pytest.raises(ValueError, match="package_of_someone:TheirConfig, which cannot be imported"):
        from_plain(RunSettings, plain)


def test_only_a_subclass_takes_the_place_of_the_declared_class():
    plain: Any = to_plain(settings())
    plain["backbone"]["class"] = "pathlib:Path"
    assert type(from_plain(RunSettings, plain).backbone) is BackboneConfig


def test_nothing_is_imported_for_settings_that_no_other_package_provides(tmp_path, monkeypatch):
    (tmp_path / "module_of_a_stranger.py").write_text("Settings = None")
    monkeypatch.syspath_prepend(tmp_path)
    plain: Any = to_plain(settings())
    plain["training"]["class"] = "module_of_a_stranger:Settings"
    assert from_plain(RunSettings, plain) == settings()
    assert "module_of_a_stranger" not in sys.modules


@pytest.mark.parametrize("plain", [[], {"backbone": {}}, {"data": "x", "backbone": {}, "training": {"num_steps": 0}}])
def test_broken_settings_are_value_errors(plain):
    with pytest.raises(ValueError, match=r"settings|num_steps"):
        from_plain(RunSettings, plain)


@dataclass
class _Strange:
    thing: object = field(default_factory=object)


def test_values_that_json_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="object cannot be stored"):
        to_plain(_Strange())


def test_differences_are_named():
    first = settings()
    second = replace(first, data=Path("x"), training=replace(first.training, stages=StageConfig(pretrain_steps=8)))
    found = differences(to_plain(first), to_plain(second))
    assert found == ["data", "training.stages.pretrain_steps", "training.stages.freeze_backbone"]
    assert differences(to_plain(first), to_plain(first)) == []
