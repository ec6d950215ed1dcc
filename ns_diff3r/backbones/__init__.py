# SPDX-License-Identifier: Apache-2.0
"""Feed-forward networks: photographs with cameras in, Gaussians out."""

from .compact import CompactBackbone, CompactConfig, tiny_config
from .protocol import Backbone, BackboneConfig, Prediction
from .uncertainty import UncertaintyHead, UncertaintyHeadConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "CompactBackbone",
    "CompactConfig",
    "Prediction",
    "UncertaintyHead",
    "UncertaintyHeadConfig",
    "tiny_config",
]
