# SPDX-License-Identifier: Apache-2.0
"""ImageNet's mean and standard deviation, which vision transformers expect to be taken out of images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def normalized(images: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 3 H W"]:
    """Images in [0, 1] with ImageNet's mean and standard deviation taken out."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
    return (images - mean) / deviation
