# SPDX-License-Identifier: Apache-2.0
"""State dicts that name the published weights of a frozen backbone instead of holding them; see `published`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.weights.loading import LoadedWeights
from .stages import TRUNK

MARK = "published_weights"
"""Name, beside the network's parts, of the bytes "sha256 reference" that stand for the weights of the backbone."""


class PublishedState(nn.Module):
    """What a network must know about where its backbone's weights are from.

    Attributes:
        published: the weights that the backbone began with, or None.
        holds_backbone: whether state dicts hold the backbone all the same, because training changes it.
    """

    published: LoadedWeights | None = None
    holds_backbone: bool = True

    def register_published_hook(self) -> None:
        """Called once, at the end of the constructor."""
        self._register_state_dict_hook(_name_instead_of_holding)

    @contextmanager
    def holding_all(self) -> Iterator[None]:
        """State dicts hold everything within the context."""
        before, self.holds_backbone = self.holds_backbone, True
        try:
            yield
        finally:
            self.holds_backbone = before


def packed(loaded: LoadedWeights) -> Tensor:
    """The mark of these weights."""
    return torch.tensor(list(f"{loaded.sha256} {loaded.reference}".encode()), dtype=torch.uint8)


def unpacked(mark: Tensor) -> tuple[str, str]:
    """(SHA-256, reference) that a mark stands for."""
    digest, _, reference = bytes(mark.tolist()).decode().partition(" ")
    return digest, reference


def frozen_names(network: Any) -> list[str]:
    """Names of the backbone proper's parameters, trunk included, in a state dict of the network."""
    groups = network.param_groups()
    frozen = {id(parameter) for name in ("backbone", TRUNK) for parameter in groups[name]}
    return [name for name, parameter in network.named_parameters() if id(parameter) in frozen]


def _name_instead_of_holding(network: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    if network.published is None or network.holds_backbone:
        return
    for name in frozen_names(network):
        state.pop(prefix + name, None)
    state[prefix + MARK] = packed(network.published)
