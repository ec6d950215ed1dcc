# SPDX-License-Identifier: Apache-2.0
"""Feed-forward networks: photographs with cameras in, Gaussians out."""

from .compact import CompactBackbone, CompactConfig, tiny_config
from .depth_anything_3 import DepthAnything3Backbone, DepthAnything3Config
from .depthsplat import DepthSplatBackbone, DepthSplatConfig
from .pretrained import PretrainedBackbone, PretrainedConfig
from .protocol import Backbone, BackboneConfig, Prediction
from .uncertainty import UncertaintyHead, UncertaintyHeadConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "CompactBackbone",
    "CompactConfig",
    "DepthAnything3Backbone",
    "DepthAnything3Config",
    "DepthSplatBackbone",
    "DepthSplatConfig",
    "Prediction",
    "PretrainedBackbone",
    "PretrainedConfig",
    "UncertaintyHead",
    "UncertaintyHeadConfig",
    "tiny_config",
]
