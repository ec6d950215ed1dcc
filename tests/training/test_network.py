# SPDX-License-Identifier: Apache-2.0
"""The network: parameter groups, freezing, weights from a seed."""

import torch

from ns_diff3r.backbones import UncertaintyHeadConfig
from ns_diff3r.training.network import build_network
from ns_diff3r.training.stages import GROUP_NAMES
from tests.training.doubles import ToyConfig, make_batch, make_network


def test_every_parameter_is_in_exactly_one_group():
    network = make_network()
    groups = network.param_groups()
    assert tuple(groups) == GROUP_NAMES
    listed = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())
    head = {id(parameter) for parameter in network.backbone.head.parameters()}  # pyright: ignore
    assert {id(parameter) for parameter in groups["gaussian_head"]} == head


def test_freezing_changes_no_group():
    network = make_network()
    before = {name: [id(p) for p in group] for name, group in network.param_groups().items()}
    network.train_only({"gaussian_head"})
    assert {name: [id(p) for p in group] for name, group in network.param_groups().items()} == before
    for name, group in network.param_groups().items():
        assert all(parameter.requires_grad == (name == "gaussian_head") for parameter in group)
    network.train_only(GROUP_NAMES)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_first_stage_does_without_the_uncertainty_head():
    network, batch = make_network(), make_batch()
    network.uncertainty_head.forward = None  # pyright: ignore[reportAttributeAccessIssue]
    output = network(batch.context, with_prior=False)
    assert output.prior is None
    assert output.gaussians is output.prediction.gaussians


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_network(ToyConfig(), UncertaintyHeadConfig(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_network(ToyConfig(), UncertaintyHeadConfig(), seed=3)
    other = build_network(ToyConfig(), UncertaintyHeadConfig(), seed=4)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
