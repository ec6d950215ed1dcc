# SPDX-License-Identifier: Apache-2.0
"""Depth Anything 3 (Lin et al., 2025) with its Gaussian head, from its description, with the official keys.

Any number of views, with or without cameras: a DINOv2 whose later blocks look at all views in turn, decoders of depth,
cameras and Gaussians.
"""

from .architecture import Architecture
from .backbone import DepthAnything3Backbone, DepthAnything3Config
from .network import DepthAnything3Network

__all__ = ["Architecture", "DepthAnything3Backbone", "DepthAnything3Config", "DepthAnything3Network"]
