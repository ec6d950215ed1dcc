# SPDX-License-Identifier: Apache-2.0
"""Which backbone, with which settings, weights belong to, by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..depth_anything_3 import Architecture, DepthAnything3Backbone, DepthAnything3Config
from ..depthsplat import DepthSplatBackbone, DepthSplatConfig, Wiring
from ..depthsplat.wiring import TRANSFORMERS, Size
from ..pretrained import PretrainedConfig
from .fetching import WeightsError
from .reading import read_weights


def prefixes_of_all() -> tuple[str, ...]:
    """What official files of any backbone put before the keys."""
    return (*DepthSplatBackbone.weights_prefixes, *DepthAnything3Backbone.weights_prefixes)


def config_for(shapes: Mapping[str, Sequence[int]], source: str) -> PretrainedConfig:
    """Settings of the backbone that weights of these shapes belong to.

    Raises:
        WeightsError: of none that is known here.
    """
    wiring, architecture = Wiring.of_weights(shapes), Architecture.of_weights(shapes)
    if wiring is not None:
        size: Size = next(size for size, transformer in TRANSFORMERS.items() if transformer == wiring.transformer)
        return DepthSplatConfig(size=size, upsample_factor=wiring.upsample_factor, num_scales=wiring.num_scales)
    if architecture is not None:
        return DepthAnything3Config(size=architecture.size)
    raise WeightsError(f"{source}: of no network that is known here (first names: {', '.join(list(shapes)[:4])})")


def config_of_weights(path: Path) -> PretrainedConfig:
    """`config_for` a file; raises what `read_weights` raises, too."""
    state = read_weights(path, prefixes_of_all())
    return config_for({name: tuple(value.shape) for name, value in state.items()}, str(path))
