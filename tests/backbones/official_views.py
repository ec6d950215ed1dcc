# SPDX-License-Identifier: Apache-2.0
"""Small networks of the official kinds with weights that make every path count, and views for them."""

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
    torch.manual_seed(0)
    backbone = DepthSplatConfig(**changes).setup()
    assert isinstance(backbone, DepthSplatBackbone)
    stirred(backbone)
    return backbone.eval()


def depth_anything_3(**changes) -> DepthAnything3Backbone:
    torch.manual_seed(0)
    backbone = DepthAnything3Config(**{"size": "small", **changes}).setup()
    assert isinstance(backbone, DepthAnything3Backbone)
    stirred(backbone)
    with torch.no_grad():
        backbone.network.cam_dec.fc_fov[0].bias.fill_(0.8)  # a field of view, whatever the tokens say
    return backbone.eval()
