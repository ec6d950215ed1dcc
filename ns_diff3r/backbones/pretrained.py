# SPDX-License-Identifier: Apache-2.0
"""Backbones that can begin with weights of their original authors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .protocol import Backbone, BackboneConfig
from .weights.catalogue import PublishedFile

OFFICIAL = "official"


@dataclass
class PretrainedConfig(BackboneConfig):
    """Settings that every backbone with published weights has."""

    checkpoint: str | None = None
    """Published weights to begin with: a file, a hub's "owner/name/file", a name that `ns-diff3r weights list` shows,
    or "official" for those of these settings. None: random weights."""
    checkpoint_sha256: str | None = None
    """The file's SHA-256, or its first digits; a file that differs is refused. None: known files are still checked."""

    def weights_reference(self) -> str | None:
        """`checkpoint` with "official" replaced by what it means; None for random weights.

        Raises:
            ValueError: no weights are published for these settings.
        """
        if self.checkpoint != OFFICIAL:
            return self.checkpoint
        file = self.official_file()
        if file is None:
            raise ValueError(
                f"{type(self).__name__}: no weights are published for these settings; `ns-diff3r weights list` shows "
                "which there are, and --pipeline.model.backbone.checkpoint None (with ns-diff3r fit, "
                "--backbone.checkpoint None) begins with random ones"
            )
        return file.reference

    def usual_size(self) -> int:
        """Longest side of images, as the published weights were trained for."""
        return 256

    def official_file(self) -> PublishedFile | None:
        """The published weights of these settings."""
        return None


class PretrainedBackbone(Backbone):
    """A backbone around a network whose state dict has official keys.

    Attributes:
        network: the `torch.nn.Module` that official weights belong to.
        config: a `PretrainedConfig`.
    """

    network: Any
    config: Any
    weights_prefixes: Sequence[str] = ()
    """What official files put before the keys; the first that all keys share is removed."""
    optional_parts: Sequence[str] = ()
    """Prefixes of parts that an official file may lack as a whole; they then begin with random weights."""

    @staticmethod
    @abstractmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """The settings that weights of these shapes (without prefix) belong to, in words; None if unknown."""

    @abstractmethod
    def describe(self) -> str:
        """This network's own settings, in the same words."""
