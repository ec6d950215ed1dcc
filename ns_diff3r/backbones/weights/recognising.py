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

_UNUSABLE = {
    ("da3.", "da3_metric."): "Depth Anything 3 NESTED, which is not used here: take da3-giant or da3-giant-1.1",
    ("pretrained.", "regressor."): "the depth branch of DepthSplat alone: take one of its files with Gaussians",
    ("pretrained.", "depth_head."): "Depth Anything V2, with which DepthSplat's training began: take DepthSplat's",
}
"""What the names of some published files begin with that users may come with."""


def prefixes_of_all() -> tuple[str, ...]:
    """What official files of any backbone put before the keys."""
    return (*DepthSplatBackbone.weights_prefixes, *DepthAnything3Backbone.weights_prefixes)


def network_of(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The network that weights of these shapes belong to, in words; also of some that cannot be used here. Names may
    have the prefixes of official files."""
    for prefix in ("", *prefixes_of_all()):
        own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        wiring, architecture = Wiring.of_weights(own), Architecture.of_weights(own)
        if wiring is not None:
            return f"DepthSplat, {wiring.describe()}"
        if architecture is not None:
            return f"Depth Anything 3, {architecture.describe()}"
        for names, words in _UNUSABLE.items():
            if all(any(name.startswith(part) for name in own) for part in names):
                return words
    return None


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
    what = network_of(shapes) or f"no network that is known here (first names: {', '.join(list(shapes)[:4])})"
    raise WeightsError(f"{source}: of {what}")


def config_of_weights(path: Path) -> PretrainedConfig:
    """`config_for` a file; raises what `read_weights` raises, too."""
    state = read_weights(path, prefixes_of_all())
    return config_for({name: tuple(value.shape) for name, value in state.items()}, str(path))
