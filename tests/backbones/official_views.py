# SPDX-License-Identifier: Apache-2.0
"""Small networks of the official kinds with weights that make every path count."""

from copy import deepcopy
from functools import cache

import torch
from torch import nn

from ns_diff3r.backbones import DepthAnything3Config, DepthSplatConfig
from ns_diff3r.backbones.depth_anything_3 import DepthAnything3Backbone
from ns_diff3r.backbones.depthsplat import DepthSplatBackbone


def stirred(network: nn.Module, amount: float = 0.02, seed: int = 0) -> None:
    """Move the weights away from an initialisation in which much is silent."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter += amount * torch.randn(parameter.shape, generator=random)
            if name.endswith("gamma"):  # near zero at first, which hides what lies behind
                parameter += 0.3


def depthsplat(**changes) -> DepthSplatBackbone:
    backbone = deepcopy(_made(DepthSplatConfig, tuple(sorted(changes.items()))))
    assert isinstance(backbone, DepthSplatBackbone)
    return backbone


def depth_anything_3(**changes) -> DepthAnything3Backbone:
    backbone = deepcopy(_made(DepthAnything3Config, tuple(sorted({"size": "small", **changes}.items()))))
    assert isinstance(backbone, DepthAnything3Backbone)
    return backbone


@cache
def _made(kind: type, changes: tuple) -> nn.Module:
    """Drawing forty million random numbers takes longer than what most tests do with them."""
    torch.manual_seed(0)
    backbone = kind(**dict(changes)).setup()
    stirred(backbone)
    return backbone.eval()
