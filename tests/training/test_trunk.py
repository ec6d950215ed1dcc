# SPDX-License-Identifier: Apache-2.0
"""The pretrained trunk of a backbone: a parameter group of its own, its rates, and checkpoints from before it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ns_diff3r.backbones import DepthAnything3Backbone, DepthSplatBackbone, UncertaintyHeadConfig
from ns_diff3r.training.config import TrainingConfig
from ns_diff3r.training.network import Diff3RNetwork
from ns_diff3r.training.official import DA3, DEPTHSPLAT
from ns_diff3r.training.optimizers import GroupOptimizers, learning_rate
from ns_diff3r.training.published_state import frozen_names
from ns_diff3r.training.stages import GROUP_NAMES, Stage, StageConfig
from tests.training.doubles import make_network

TRUNKS = {
    "depthsplat": (DepthSplatBackbone, DEPTHSPLAT.network, "backbone.network.depth_predictor.pretrained."),
    "da3": (DepthAnything3Backbone, replace(DA3.network, size="small"), "backbone.network.backbone.pretrained."),
}


@pytest.mark.parametrize("kind", TRUNKS)
def test_the_trunk_is_the_pretrained_image_encoder(kind):
    make, config, prefix = TRUNKS[kind]
    with torch.device("meta"):
        backbone = make(config)
        network = Diff3RNetwork(backbone, UncertaintyHeadConfig().setup(backbone.feature_dim, backbone.sh_degree))
    groups = network.param_groups()
    assert tuple(groups) == GROUP_NAMES
    listed = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    trunk = {names[id(parameter)] for parameter in groups["trunk"]}
    assert len(trunk) > 100
    assert trunk == {name for name in names.values() if name.startswith(prefix)}
    assert trunk < set(frozen_names(network))  # what a checkpoint only names when it is frozen
    assert set(frozen_names(network)) == trunk | {names[id(parameter)] for parameter in groups["backbone"]}


def test_its_rates_are_those_of_the_recipes():
    stages = StageConfig(pretrain_fraction=0.5, freeze_backbone=False)
    for run, share in ((DEPTHSPLAT, 0.01), (DA3, 0.1)):
        config = TrainingConfig(num_steps=100, **{**run.changes, "stages": stages})
        for step in (0, 20, 60, 99):
            expected = share * learning_rate("backbone", step, config)
            assert expected > 0.0
            assert learning_rate("trunk", step, config) == pytest.approx(expected)
        frozen = replace(config, stages=StageConfig(pretrain_fraction=0.5))
        assert learning_rate("trunk", 60, frozen) == learning_rate("backbone", 60, frozen) == 0.0
    assert StageConfig().trained_groups(Stage.PRETRAIN) == {"backbone", "trunk", "gaussian_head"}


def test_networks_without_a_trunk_keep_their_optimisers():
    network = make_network()
    assert network.param_groups()["trunk"] == []
    optimizers = GroupOptimizers.make(network.param_groups(), TrainingConfig())
    assert set(optimizers.state_dict()) == {"backbone", "gaussian_head", "uncertainty_head"}


def former(trained: bool) -> tuple[GroupOptimizers, GroupOptimizers]:
    """Optimisers as they were, trunk and rest in one, and as they are."""
    config = TrainingConfig(stages=StageConfig(pretrain_fraction=0.0, freeze_backbone=False))
    rest, trunk, head = (nn.Parameter(torch.ones(n)) for n in (2, 3, 4))
    before = GroupOptimizers.make({"backbone": [rest, trunk], "gaussian_head": [head]}, config)
    for parameter in (rest, trunk, head) if trained else (head,):
        parameter.grad = torch.ones_like(parameter)
    before.begin_step(1)
    for parameter in (rest, trunk, head) if trained else (head,):
        parameter.grad = torch.ones_like(parameter)
    before.end_step(1)
    now = {"backbone": [rest], "trunk": [trunk], "gaussian_head": [head]}
    return before, GroupOptimizers.make(now, config)


def test_a_checkpoint_from_before_loads_where_the_backbone_was_frozen():
    before, now = former(trained=False)
    now.load_state_dict(before.state_dict())
    moments = now.optimizers["gaussian_head"].state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moments, before.optimizers["gaussian_head"].state_dict()["state"][0]["exp_avg"])
    assert now.optimizers["trunk"].state_dict()["state"] == {}
    assert set(now.state_dict()) == {"backbone", "trunk", "gaussian_head"}


def test_one_that_has_trained_it_says_what_to_do():
    before, now = former(trained=True)
    with pytest.raises(ValueError, match=r"trunk had an optimiser of its own.*--weights"):
        now.load_state_dict(before.state_dict())
