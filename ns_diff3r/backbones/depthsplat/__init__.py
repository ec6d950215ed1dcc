# SPDX-License-Identifier: Apache-2.0
"""DepthSplat (Xu et al., CVPR 2025), written from its description, with the keys of its official checkpoints.

Known cameras, two to twelve views: a plane sweep helped by monocular features, one Gaussian per pixel.
"""

from .backbone import DepthSplatBackbone, DepthSplatConfig
from .network import DepthSplatNetwork
from .wiring import Wiring

__all__ = ["DepthSplatBackbone", "DepthSplatConfig", "DepthSplatNetwork", "Wiring"]
