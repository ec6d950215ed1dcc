# SPDX-License-Identifier: Apache-2.0
"""The sizes of Depth Anything 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..blocks import TransformerSize, VisionTransformerConfig

Size = Literal["small", "base", "large", "giant"]

_SIZES: dict[Size, tuple[TransformerSize, tuple[int, ...], int, int, tuple[int, ...]]] = {
    "small": ("vits", (5, 7, 9, 11), 4, 64, (48, 96, 192, 384)),
    "base": ("vitb", (5, 7, 9, 11), 4, 128, (96, 192, 384, 768)),
    "large": ("vitl", (11, 15, 19, 23), 8, 256, (256, 512, 1024, 1024)),
    "giant": ("vitg", (19, 27, 33, 39), 13, 256, (256, 512, 1024, 1024)),
}
FINAL_EPSILON = 1e-5
"""Of all norms outside the blocks' own two."""


@dataclass(frozen=True)
class Architecture:
    """Everything that the shapes of the weights depend on.

    Attributes:
        size: "small", "base", "large" or "giant".
        gaussians: whether there is a Gaussian head. Of the released models only giant has one.

    Raises:
        ValueError: an unknown size.
    """

    size: Size
    gaussians: bool = True

    def __post_init__(self) -> None:
        if self.size not in _SIZES:
            raise ValueError(f"Depth Anything 3: size is one of {', '.join(_SIZES)}, not {self.size!r}")

    @property
    def transformer(self) -> VisionTransformerConfig:
        """The trunk."""
        name, _, start, _, _ = _SIZES[self.size]
        return VisionTransformerConfig(name, final_epsilon=FINAL_EPSILON, query_key_norm_from=start)

    @property
    def layers(self) -> Sequence[int]:
        """Blocks whose outputs the heads use."""
        return _SIZES[self.size][1]

    @property
    def alternating_from(self) -> int:
        """First block with rotary positions; from here on odd blocks see all views."""
        return _SIZES[self.size][2]

    @property
    def features(self) -> int:
        """Channels within the decoders."""
        return _SIZES[self.size][3]

    @property
    def channels(self) -> Sequence[int]:
        """Channels of the decoders' four levels."""
        return _SIZES[self.size][4]

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.transformer.width

    @staticmethod
    def of_weights(shapes: Mapping[str, Sequence[int]]) -> Architecture | None:
        """The architecture that weights of these shapes belong to; None if of no Depth Anything 3."""
        width = shapes.get("backbone.pretrained.camera_token", [0])[-1]
        for size in _SIZES:
            if Architecture(size).width == width:
                return Architecture(size, gaussians=any(name.startswith("gs_head.") for name in shapes))
        return None

    def describe(self) -> str:
        """In words, for messages."""
        return f"size {self.size}, {'with' if self.gaussians else 'without'} a Gaussian head"
