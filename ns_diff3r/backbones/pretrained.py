# SPDX-License-Identifier: Apache-2.0
"""Backbones that can begin with weights of their original authors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .protocol import Backbone, BackboneConfig


@dataclass
class PretrainedConfig(BackboneConfig):
    """Settings that every backbone with published weights has."""

    checkpoint: str | None = None
    """Published weights to begin with: a file, or a hub's "owner/name/file" (see `ns-diff3r weights list`). None:
    random weights."""
    checkpoint_sha256: str | None = None
    """The file's SHA-256, or its first digits; a file that differs is refused. None: known files are still checked."""


class PretrainedBackbone(Backbone):
    """A backbone around a network whose state dict has official keys.

    Attributes:
        network: the `torch.nn.Module` that official weights belong to.
    """

    network: Any
    weights_prefixes: Sequence[str] = ()
    """What official files put before the keys; the first that all keys share is removed."""

    @staticmethod
    @abstractmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """The settings that weights of these shapes (without prefix) belong to, in words; None if unknown."""

    @abstractmethod
    def describe(self) -> str:
        """This network's own settings, in the same words."""
