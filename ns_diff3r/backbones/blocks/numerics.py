# SPDX-License-Identifier: Apache-2.0
"""What all networks do with numbers: ImageNet's mean and deviation taken out of images, no half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast does nothing within this context; where shapes alone are computed there is none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def normalized(images: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 3 H W"]:
    """Images in [0, 1] with ImageNet's mean and standard deviation taken out."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
    return (images - mean) / deviation
