# SPDX-License-Identifier: Apache-2.0
"""When stages change, and the learning rates that follow them."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ns_diff3r.solver import PCGConfig, TTOConfig
from ns_diff3r.training.config import GroupOptimizer, LossConfig, TrainingConfig
from ns_diff3r.training.optimizers import (
    CLIP_WINDOW,
    GroupOptimizers,
    GuardedAdamW,
    clip_quantile,
    learning_rate,
    learning_rate_factor,
)
from ns_diff3r.training.schedules import warmup_cosine
from ns_diff3r.training.stages import GROUP_NAMES, Stage, StageConfig


def config(num_steps: int = 100, **changes: object) -> TrainingConfig:
    settings = {
        "num_steps": num_steps,
        "stages": StageConfig(pretrain_steps=60),
        "backbone": GroupOptimizer(pretrain_rate=4e-3, bilevel_rate=1e-3),
        "uncertainty_head": GroupOptimizer(pretrain_rate=1e-3, bilevel_rate=8e-3),
        "warmup_fraction": 0.1,
        "final_fraction": 0.25,
    }
    return TrainingConfig(**{**settings, **changes})  # pyright: ignore[reportArgumentType]


def test_the_stage_changes_at_its_boundary_and_stays():
    stages = StageConfig(pretrain_steps=3)
    found = [stages.stage(step, 5) for step in range(7)]
    assert found == [Stage.PRETRAIN] * 3 + [Stage.BILEVEL] * 4
    assert stages.interval(2, 5) == (0, 3)
    assert stages.interval(3, 5) == (3, 5)


@pytest.mark.parametrize(
    ("stages", "boundary"),
    [
        (StageConfig(pretrain_fraction=0.5), 5),
        (StageConfig(pretrain_fraction=0.0), 0),
        (StageConfig(pretrain_fraction=1.0), 10),
        (StageConfig(pretrain_steps=4), 4),
        (StageConfig(pretrain_steps=0, pretrain_fraction=1.0), 0),
        (StageConfig(pretrain_steps=99), 10),
    ],
)
def test_a_stage_may_be_empty(stages, boundary):
    assert stages.boundary(10) == boundary
    # nerfstudio's scheduler asks for one step more than there are
    assert stages.stage(10, 10) is (Stage.PRETRAIN if boundary == 10 else Stage.BILEVEL)


def test_what_a_stage_trains():
    frozen, free = StageConfig(freeze_backbone=True), StageConfig(freeze_backbone=False)
    assert frozen.trained_groups(Stage.PRETRAIN) == {"backbone", "trunk", "gaussian_head"}
    assert frozen.trained_groups(Stage.BILEVEL) == {"gaussian_head", "uncertainty_head"}
    assert free.trained_groups(Stage.BILEVEL) == set(GROUP_NAMES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StageConfig(pretrain_fraction=1.5),
        lambda: StageConfig(pretrain_steps=-1),
        lambda: LossConfig(lpips="maybe"),  # pyright: ignore[reportArgumentType]
        lambda: LossConfig(auxiliary_weight=math.nan),
        lambda: TrainingConfig(num_steps=0),
        lambda: TrainingConfig(gradient_accumulation=0),
        lambda: TrainingConfig(tto_rate_factor=0.0),
        lambda: TrainingConfig(tto_steps_eval=-1),
        lambda: TrainingConfig(final_fraction=2.0),
        lambda: TrainingConfig(tto=TTOConfig(pcg=PCGConfig(warm_start=True))),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=r"Config\."):
        make()


def test_warm_up_and_cosine():
    values = [warmup_cosine(step, 10, 0.2, 0.1) for step in range(12)]
    assert values[0] == pytest.approx(1 / 3)
    assert values[1] == pytest.approx(2 / 3)
    assert values[2] == 1.0
    assert values[6] == pytest.approx(0.55)  # half way down
    assert values[10] == values[11] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(values[2:11]))
    assert warmup_cosine(0, 10, 0.0, 0.0) == 1.0


def test_each_stage_has_its_own_rise_and_fall():
    rates = [learning_rate("backbone", step, config(stages=StageConfig(pretrain_steps=60, freeze_backbone=False)))
             for step in range(100)]  # fmt: skip
    assert max(rates[:60]) == rates[6] == 4e-3
    assert max(rates[60:]) == rates[64] == 1e-3
    assert rates[59] < 0.3 * 4e-3
    assert rates[60] < rates[61] < rates[62]
    assert all(type(rate) is float for rate in rates)


def test_frozen_groups_have_no_learning_rate():
    assert learning_rate("backbone", 70, config()) == 0.0
    assert learning_rate("uncertainty_head", 10, config()) == 0.0
    assert learning_rate("uncertainty_head", 70, config()) > 0.0
    with pytest.raises(KeyError, match="no parameter group"):
        learning_rate("decoder", 0, config())


def test_torchs_scheduler_with_our_factors_gives_the_same_rates_to_the_bit():
    settings = config(num_steps=25, stages=StageConfig(pretrain_steps=11))
    for group in GROUP_NAMES:
        base = getattr(settings, group).base_rate
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=base)
        scheduler = LambdaLR(optimizer, lambda step, group=group: learning_rate_factor(group, step, settings))
        for step in range(26):
            assert optimizer.param_groups[0]["lr"] == learning_rate(group, step, settings)
            optimizer.step()
            scheduler.step()


def make_optimizers(**changes: object) -> tuple[GroupOptimizers, dict[str, list[nn.Parameter]]]:
    groups = {name: [nn.Parameter(torch.ones(3))] for name in GROUP_NAMES}
    settings = config(stages=StageConfig(pretrain_steps=0, freeze_backbone=False), **changes)
    return GroupOptimizers.make(groups, settings), groups


def test_a_step_clips_each_group_and_leaves_those_without_gradient():
    optimizers, groups = make_optimizers()
    optimizers.begin_step(0)
    groups["backbone"][0].grad = torch.tensor([3.0, 4.0, 0.0])
    norms = optimizers.end_step(0)
    assert norms == {"backbone": pytest.approx(5.0)}
    assert groups["backbone"][0].grad.norm() == pytest.approx(1.0, rel=1e-4)
    assert not torch.equal(groups["backbone"][0], torch.ones(3))
    assert torch.equal(groups["gaussian_head"][0], torch.ones(3))
    assert optimizers.optimizers["gaussian_head"].state_dict()["state"] == {}


def test_no_clipping_on_request():
    optimizers, groups = make_optimizers(backbone=GroupOptimizer(max_norm=None))
    gradient = torch.tensor([3.0, 4.0, 0.1])
    groups["backbone"][0].grad = gradient.clone()
    optimizers.end_step(0)
    assert torch.equal(groups["backbone"][0].grad, gradient)


def test_gradients_accumulate_over_steps():
    optimizers, groups = make_optimizers(gradient_accumulation=2)
    parameter = groups["backbone"][0]
    for step in range(4):
        optimizers.begin_step(step)
        parameter.grad = torch.ones(3) if parameter.grad is None else parameter.grad + 1
        before = parameter.detach().clone()
        norms = optimizers.end_step(step)
        assert (norms != {}) == (step % 2 == 1)
        assert torch.equal(parameter, before) == (step % 2 == 0)
    assert norms["backbone"] == pytest.approx(2 * math.sqrt(3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_moments(bad, caplog):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = GuardedAdamW([parameter], lr=0.1)
    parameter.grad = torch.ones(3)
    optimizer.step()
    before, state = parameter.detach().clone(), optimizer.state[parameter]["exp_avg"].clone()
    parameter.grad = torch.tensor([1.0, bad, 1.0])
    optimizer.step()
    assert torch.equal(parameter, before)
    assert torch.equal(optimizer.state[parameter]["exp_avg"], state)
    assert optimizer.num_skipped == 1
    assert "not finite" in caplog.text


CLIPPED = {"backbone": GroupOptimizer(max_norm=None, bilevel_clip_quantile=0.5)}


def test_long_gradients_are_shortened_to_a_quantile_of_the_norms_so_far():
    optimizers, groups = make_optimizers(**CLIPPED)
    parameter, lengths = groups["backbone"][0], []
    for step, size in enumerate([2.0, 1.0, 100.0, 3.0]):
        optimizers.begin_step(step)
        parameter.grad = torch.tensor([size, 0.0, 0.0])
        assert optimizers.end_step(step)["backbone"] == pytest.approx(size)
        lengths.append(float(parameter.grad.norm()))
    assert lengths == pytest.approx([2.0, 1.0, 2.0, 2.5])  # medians of 2; 2 1; 2 1 100; 2 1 100 3
    other, copies = make_optimizers(**CLIPPED)
    other.load_state_dict(optimizers.state_dict())
    other.begin_step(4)
    copies["backbone"][0].grad = torch.tensor([50.0, 0.0, 0.0])
    other.end_step(4)
    assert float(copies["backbone"][0].grad.norm()) == pytest.approx(3.0)


def test_norms_are_forgotten_in_time_and_infinite_ones_are_not_remembered():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = GuardedAdamW([parameter], lr=0.0)
    optimizer.clip_quantile = 1.0
    for size in (9.0, math.inf, *[1.0] * CLIP_WINDOW, 5.0):
        parameter.grad = torch.tensor([size])
        optimizer.step()
    assert optimizer.param_groups[0]["norms"] == [1.0] * (CLIP_WINDOW - 1) + [5.0]


@pytest.mark.parametrize("quantile", [0.0, 1.5, math.nan])
def test_a_quantile_that_is_none(quantile):
    with pytest.raises(ValueError, match="clip_quantile"):
        GroupOptimizer(bilevel_clip_quantile=quantile)


def test_clipping_is_of_the_second_stage():
    config = TrainingConfig(num_steps=10, stages=StageConfig(pretrain_fraction=0.5))
    assert [clip_quantile("uncertainty_head", step, config) for step in (4, 5)] == [None, 0.25]
    assert clip_quantile("backbone", 5, config) is None


def test_optimizers_restore_their_state():
    first, groups = make_optimizers()
    for group in groups.values():
        group[0].grad = torch.randn(3, generator=torch.Generator().manual_seed(0))
    first.begin_step(5)
    first.end_step(5)
    second, copies = make_optimizers()
    for name in GROUP_NAMES:
        copies[name][0].data.copy_(groups[name][0])
    second.load_state_dict(first.state_dict())
    for optimizers, parameters in ((first, groups), (second, copies)):
        for group in parameters.values():
            group[0].grad = torch.ones(3)
        optimizers.end_step(6)
    for name in GROUP_NAMES:
        assert torch.equal(groups[name][0], copies[name][0])
    with pytest.raises(ValueError, match="optimisers of"):
        second.load_state_dict({"fields": {}})


def test_learning_rates_of_the_layer_are_multiplied():
    settings = TrainingConfig(tto=TTOConfig(num_steps=7), tto_rate_factor=3.0)
    base = dataclasses.asdict(settings.tto.learning_rates)
    for layer in (settings.layer_config(), settings.evaluation_config()):
        assert dataclasses.asdict(layer.learning_rates) == {name: 3.0 * rate for name, rate in base.items()}
        assert layer.num_steps == 7
    assert settings.evaluation_config(2).num_steps == 2
    assert dataclasses.replace(settings, tto_steps_eval=30).evaluation_config().num_steps == 30
    assert dataclasses.replace(settings, tto_steps_eval=30).evaluation_config(0).num_steps == 0
