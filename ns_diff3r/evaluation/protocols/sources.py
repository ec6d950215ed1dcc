# SPDX-License-Identifier: Apache-2.0
"""Where the networks of rows come from: NAME=SOURCE on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...backbones import BackboneConfig, UncertaintyHeadConfig
from ...backbones.compact import CompactConfig
from ...backbones.depth_anything_3 import DepthAnything3Config
from ...backbones.depthsplat import DepthSplatConfig
from ...training.config import TrainingConfig
from ...training.run import RunSettings
from ...training.weights import TrainedNetwork, open_weights
from .rows import Prior

UNTRAINED = "untrained:"
NETWORKS: dict[str, Callable[[], BackboneConfig]] = {
    "compact": CompactConfig,
    "depthsplat-small": lambda: DepthSplatConfig(size="small"),
    "da3-small": lambda: DepthAnything3Config(size="small"),
}
"""Networks that can be asked for without weights, to see that a protocol runs."""


def named(entries: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE entries as a mapping, in their order.

    Raises:
        ValueError: an entry without "=", without a name or a value, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator or not name or not value:
            raise ValueError(f"{option}: {entry!r} is not NAME=VALUE")
        if name in found:
            raise ValueError(f"{option}: {name!r} is given twice")
        found[name] = value
    return found


def open_source(source: str) -> TrainedNetwork:
    """A network: a run folder, a checkpoint, a weights file, published weights, or "untrained:" and one of `NETWORKS`.

    Raises:
        ValueError, FileNotFoundError: there is no such thing, or it cannot be used.
    """
    if not source.startswith(UNTRAINED):
        return open_weights(source)
    name = source.removeprefix(UNTRAINED)
    if name not in NETWORKS:
        raise ValueError(f"{source}: there is no network {name!r}; there are {', '.join(NETWORKS)}")
    settings = RunSettings(Path(), NETWORKS[name](), UncertaintyHeadConfig(), training=TrainingConfig())
    return TrainedNetwork(settings, settings.module().eval(), 0, Path(source), source)


def prior_of(text: str | None, name: str) -> Prior | None:
    """λ at test: "learned", "none" or a positive number; None for None.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    if text == "learned":
        return "learned"
    if text == "none":
        return "none"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise ValueError(f"--priors: {name}={text}: must be learned, none, or a positive number")
    return value
