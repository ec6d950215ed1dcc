# SPDX-License-Identifier: Apache-2.0
"""What one training step or one evaluation reads of one scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..splats import Views


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """Context views, from which the scene is predicted and fitted, and target views, on which it is judged.

    Attributes:
        name: of the scene, for logs and messages.
        context: at least two views, with near and far.
        targets: at least one view, of the size of the context.
        scene: index in the collection that it comes from, or -1.
        context_indices: frames of the scene that are the context, () where unknown.
        target_indices: frames of the scene that are the targets, () where unknown.
    """

    name: str
    context: Views
    targets: Views
    scene: int = -1
    context_indices: tuple[int, ...] = ()
    target_indices: tuple[int, ...] = ()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SceneBatch:
        """Copy with both sets of views on a device and/or of a dtype."""
        context, targets = self.context.to(device, dtype), self.targets.to(device, dtype)
        return SceneBatch(self.name, context, targets, self.scene, self.context_indices, self.target_indices)
