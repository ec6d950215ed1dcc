# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r weights`: published weights of the backbones, their terms, and whether a file is one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Union

import tyro
from tyro.conf import subcommand

if TYPE_CHECKING:
    from ..backbones.pretrained import PretrainedBackbone


@dataclass
class List:
    """Show what is published, under which licence, and the settings that each file is for."""

    def run(self) -> int:
        """Print the table."""
        from ..backbones.weights.catalogue import CATALOGUE
        from .tables import print_table

        rows = [
            {
                "name": file.name,
                "settings": " ".join(f"{key}={value}" for key, value in file.settings),
                "trained on": file.trained,
                "licence": file.licence,
            }
            for file in CATALOGUE
        ]
        print_table("Published weights", rows, "none are ours; names are for `ns-diff3r weights get` and `checkpoint`")
        return 0


@dataclass
class Get:
    """Download a file, or continue a download that was cut off; prints where it is and its SHA-256."""

    name: tyro.conf.Positional[str]
    """A name of `ns-diff3r weights list`, or a hub's owner/name/file."""
    sha256: str | None = None
    """Expected SHA-256 or its first digits; default: what is known."""

    def run(self) -> int:
        """Fetch and print."""
        from ..backbones.weights.fetching import fetch_weights

        path, digest = fetch_weights(self.name, self.sha256)
        print(f"{path}\nSHA-256 {digest}")
        return 0


@dataclass
class Check:
    """Read a file without running anything in it, and say which network it belongs to and whether it fits."""

    file: tyro.conf.Positional[str]
    """A path, a name of `ns-diff3r weights list`, or a hub's owner/name/file."""
    sha256: str | None = None
    """Expected SHA-256 or its first digits; default: what is known."""

    def run(self) -> int:
        """Report; ValueError if it fits nothing."""
        from ..backbones.weights.fetching import fetch_weights
        from ..backbones.weights.loading import check_fit
        from ..backbones.weights.reading import read_weights

        path, digest = fetch_weights(self.file, self.sha256)
        state = read_weights(path, ("encoder.", "model."))
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        print(f"{path}\nSHA-256 {digest}\n{len(state)} tensors, {sum(v.numel() for v in state.values()):,} numbers")
        backbone = backbone_for(shapes)
        if backbone is None:
            raise ValueError(f"{path}: of no network that is known here (first names: {', '.join(list(state)[:4])})")
        random = check_fit(backbone, shapes, str(path))
        print(f"fits {type(backbone).__name__}, {backbone.identify(shapes)}: every name and shape agrees")
        for prefix in random:
            print(f"it has no {prefix.rstrip('.')}, which begins with random weights")
        return 0


def backbone_for(shapes: dict[str, tuple[int, ...]]) -> PretrainedBackbone | None:
    """The backbone that weights of these shapes belong to, on the meta device; None if unknown."""
    import torch

    from ..backbones import DepthAnything3Config, DepthSplatConfig
    from ..backbones.depth_anything_3 import Architecture, DepthAnything3Backbone
    from ..backbones.depthsplat import DepthSplatBackbone, Wiring
    from ..backbones.depthsplat.wiring import TRANSFORMERS

    wiring, architecture = Wiring.of_weights(shapes), Architecture.of_weights(shapes)
    with torch.device("meta"):
        if wiring is not None:
            size = next(size for size, transformer in TRANSFORMERS.items() if transformer == wiring.transformer)
            return DepthSplatBackbone(
                DepthSplatConfig(size=size, upsample_factor=wiring.upsample_factor, num_scales=wiring.num_scales)
            )
        if architecture is not None:
            return DepthAnything3Backbone(DepthAnything3Config(size=architecture.size))
    return None


Action = Union[  # noqa: UP007 - tyro reads it
    Annotated[List, subcommand("list")],
    Annotated[Get, subcommand("get")],
    Annotated[Check, subcommand("check")],
]


@dataclass
class Weights:
    """Published weights: list them, get one, check a file."""

    action: tyro.conf.OmitSubcommandPrefixes[Action]

    def run(self) -> int:
        """Do it."""
        return self.action.run()
