# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r weights`: published weights of the backbones, their terms, and whether a file is one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand


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
        import torch

        from ..backbones.weights.fetching import fetch_weights
        from ..backbones.weights.loading import check_finite, check_fit
        from ..backbones.weights.reading import read_weights
        from ..backbones.weights.recognising import config_for, prefixes_of_all

        path, digest = fetch_weights(self.file, self.sha256)
        state = read_weights(path, prefixes_of_all())
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        print(f"{path}\nSHA-256 {digest}\n{len(state)} tensors, {sum(v.numel() for v in state.values()):,} numbers")
        with torch.device("meta"):
            backbone: Any = config_for(shapes, str(path)).setup()
        random = check_fit(backbone, shapes, str(path))
        check_finite(state, str(path))
        print(f"fits {type(backbone).__name__}, {backbone.identify(shapes)}: every name and shape agrees")
        for prefix in random:
            print(f"it has no {prefix.rstrip('.')}, which begins with random weights")
        return 0


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
