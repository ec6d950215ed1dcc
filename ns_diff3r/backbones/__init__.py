# SPDX-License-Identifier: Apache-2.0
"""Feed-forward networks: photographs with cameras in, Gaussians out."""

from .protocol import Backbone, BackboneConfig, Prediction

__all__ = ["Backbone", "BackboneConfig", "Prediction"]
