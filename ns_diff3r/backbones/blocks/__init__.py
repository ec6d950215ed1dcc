# SPDX-License-Identifier: Apache-2.0
"""Parts that several networks share: the DINOv2 vision transformer and the DPT decoder, with their official keys."""

from .dense_prediction import FeatureFusion, ResidualConvolutions, Scratch, resize_layers
from .vision_transformer import (
    PATCH_SIZE,
    Block,
    TransformerSize,
    VisionTransformer,
    VisionTransformerConfig,
)

__all__ = [
    "PATCH_SIZE",
    "Block",
    "FeatureFusion",
    "ResidualConvolutions",
    "Scratch",
    "TransformerSize",
    "VisionTransformer",
    "VisionTransformerConfig",
    "resize_layers",
]
