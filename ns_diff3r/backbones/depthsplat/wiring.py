# SPDX-License-Identifier: Apache-2.0
"""How a DepthSplat is put together: which released model, at which resolutions it matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..blocks import TransformerSize

Size = Literal["small", "base", "large"]
Recipe = Literal["re10k", "dl3dv"]

TRANSFORMERS: dict[Size, TransformerSize] = {"small": "vits", "base": "vitb", "large": "vitl"}
_CHANNELS = {"vits": (48, 96, 192, 384), "vitb": (96, 192, 384, 768), "vitl": (128, 256, 512, 1024)}
_LAYERS = {"vits": (2, 5, 8, 11), "vitb": (2, 5, 8, 11), "vitl": (4, 11, 17, 23)}
_DEPTH_FEATURES = {"vits": 32, "vitb": 48, "vitl": 64}
_GAUSSIAN_FEATURES = {"vits": 64, "vitb": 96, "vitl": 128}

# What is concatenated to the monocular maps at 1/2, 1/4 and 1/8, in the order of the official channels, by (upsample
# factor, scales): c0 c1 c2 maps of the convolutional network, m0 m1 multi-view features of the coarse and the fine
# scale, d inverse depth, l the monocular map itself.
_LATERALS: dict[tuple[int, int], tuple[str, str, str]] = {
    (4, 1): ("c0 c1 l", "c2 l m0 d", "l"),
    (2, 2): ("c0 c1 m1 d l", "c2 l m0", "l"),
    (4, 2): ("c0 l", "c1 l m1 d", "c2 l m0"),
    (8, 1): ("c0 l", "c1 l", "c2 l m0 d"),
}
LATERAL_CHANNELS = {"c0": 64, "c1": 96, "c2": 128, "m0": 128, "m1": 64, "d": 1}

_RECIPES: dict[tuple[Size, Recipe], tuple[int, int]] = {
    ("small", "re10k"): (4, 1),
    ("base", "re10k"): (2, 2),
    ("large", "re10k"): (2, 2),
    ("small", "dl3dv"): (8, 1),
    ("base", "dl3dv"): (4, 2),
    ("large", "dl3dv"): (4, 2),
}


@dataclass(frozen=True)
class Wiring:
    """Everything that the shapes of a DepthSplat's weights depend on.

    Attributes:
        transformer: the monocular backbone, "vits", "vitb" or "vitl".
        upsample_factor: of the learned upsampler, from the last plane sweep to the image: 2, 4 or 8.
        num_scales: plane sweeps, each at twice the resolution of the one before: 1 or 2.

    Raises:
        ValueError: a combination that does not exist.
    """

    transformer: TransformerSize
    upsample_factor: int
    num_scales: int

    def __post_init__(self) -> None:
        if self.transformer not in _CHANNELS:
            raise ValueError(f"DepthSplat: the transformer is one of {', '.join(_CHANNELS)}, not {self.transformer!r}")
        if (self.upsample_factor, self.num_scales) not in _LATERALS:
            pairs = ", ".join(f"({upsample}, {scales})" for upsample, scales in _LATERALS)
            raise ValueError(
                f"DepthSplat: (upsample_factor, num_scales) is one of {pairs}, "
                f"not ({self.upsample_factor}, {self.num_scales})"
            )

    @staticmethod
    def of_release(size: Size, recipe: Recipe) -> Wiring:
        """The wiring of the released models; "dl3dv" also names those trained on both data sets."""
        if (size, recipe) not in _RECIPES:
            sizes, recipes = sorted({s for s, _ in _RECIPES}), sorted({r for _, r in _RECIPES})
            raise ValueError(f"DepthSplat: size is one of {sizes}, recipe one of {recipes}, not {size!r}, {recipe!r}")
        return Wiring(TRANSFORMERS[size], *_RECIPES[size, recipe])

    @property
    def lowest(self) -> int:
        """The coarsest plane sweep is at 1/lowest of the image's resolution: 4 or 8."""
        return self.upsample_factor * 2 ** (self.num_scales - 1)

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this: the coarsest maps are halved twice more."""
        return 4 * self.lowest

    @property
    def layers(self) -> Sequence[int]:
        """Blocks of the transformer whose outputs are used."""
        return _LAYERS[self.transformer]

    @property
    def channels(self) -> Sequence[int]:
        """Channels of the decoders' four levels."""
        return _CHANNELS[self.transformer]

    @property
    def depth_features(self) -> int:
        """Channels within the decoder of depths."""
        return _DEPTH_FEATURES[self.transformer]

    @property
    def gaussian_features(self) -> int:
        """Channels of the decoder of Gaussians, from which their uncertainty is read as well."""
        return _GAUSSIAN_FEATURES[self.transformer]

    def laterals(self, with_depth: bool) -> list[list[str]]:
        """Names of what is concatenated at 1/2, 1/4 and 1/8."""
        levels = _LATERALS[self.upsample_factor, self.num_scales]
        return [[name for name in level.split() if with_depth or name != "d"] for level in levels]

    @staticmethod
    def of_weights(shapes: Mapping[str, Sequence[int]]) -> Wiring | None:
        """The wiring that weights of these shapes (official keys) belong to; None if of no DepthSplat."""
        width = shapes.get("depth_predictor.pretrained.cls_token", [0])[-1]
        found = {384: "vits", 768: "vitb", 1024: "vitl"}.get(width)
        if found is None:
            return None
        key = "depth_predictor.upsampler.concat_projects.{}.weight"
        incoming = [shapes.get(key.format(level), [0, 0])[1] for level in range(3)]
        scales = 2 if any(name.startswith("depth_predictor.mv_pyramid") for name in shapes) else 1
        for upsample, candidate in _LATERALS:
            wiring = Wiring(found, upsample, candidate)  # pyright: ignore[reportArgumentType]
            if candidate == scales and incoming == wiring.lateral_channels(with_depth=True):
                return wiring
        return None

    def lateral_channels(self, with_depth: bool) -> list[int]:
        """Channels that enter the three concatenations."""
        return [
            sum(self.channels[level] if name == "l" else LATERAL_CHANNELS[name] for name in names)
            for level, names in enumerate(self.laterals(with_depth))
        ]

    def describe(self) -> str:
        """In words, for messages."""
        size = next(size for size, transformer in TRANSFORMERS.items() if transformer == self.transformer)
        recipe = next((r for (s, r), p in _RECIPES.items() if s == size and p == self._pair), None)
        known = f", recipe {recipe}" if recipe else ""
        return f"size {size}{known} (upsample_factor {self.upsample_factor}, num_scales {self.num_scales})"

    @property
    def _pair(self) -> tuple[int, int]:
        return self.upsample_factor, self.num_scales
