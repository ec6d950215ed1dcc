# SPDX-License-Identifier: Apache-2.0
"""Published weights in training: a run begins with them, and where it leaves them alone its checkpoints only name them.

A state dict of a network whose backbone is frozen in all of a run holds, instead of that backbone, the reference and
SHA-256 of the file it came from. Whoever loads it fetches the file again and checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..backbones.pretrained import OFFICIAL, PretrainedBackbone
from ..backbones.weights.fetching import WeightsError
from ..backbones.weights.loading import LoadedWeights, load_published_weights
from .config import TrainingConfig
from .network import Diff3RNetwork
from .published_state import MARK, frozen_names, unpacked


def begin_with_published_weights(
    network: Diff3RNetwork, training: TrainingConfig, say: Callable[[str], None] = print
) -> LoadedWeights | None:
    """Load the weights that the backbone's settings name, before the first step; None if they name none.

    Raises:
        ValueError: they cannot be had, read or used.
    """
    backbone = network.backbone
    if not isinstance(backbone, PretrainedBackbone):
        return None
    reference = backbone.config.weights_reference()
    if reference is None:
        if not trains_backbone(training):
            say(
                "note: the backbone has random weights and no stage trains it; give stage 1 some steps, or a checkpoint"
            )
        return None
    network.published = load_published_weights(backbone, reference, backbone.config.checkpoint_sha256, say)
    return network.published


def trains_backbone(training: TrainingConfig) -> bool:
    """Whether any stage of a run trains the backbone proper."""
    return training.stages.boundary(training.num_steps) > 0 or not training.stages.freeze_backbone


def names_left_out(network: Diff3RNetwork, prefix: str) -> set[str]:
    """Names of the parameters that checkpoints of a run will not hold, since published weights give them."""
    backbone = network.backbone
    if network.holds_backbone or not isinstance(backbone, PretrainedBackbone) or backbone.config.checkpoint is None:
        return set()
    return {prefix + name for name in frozen_names(network)}


def completed_state(
    network: Diff3RNetwork, state: Mapping[str, Tensor], prefix: str, say: Callable[[str], None] = print
) -> dict[str, Tensor]:
    """`state` with the backbone's weights, if it only names them; these are then loaded into the network.

    Args:
        network: that the state is for.
        state: of a module that holds the network.
        prefix: of the network's names in `state`.

    Raises:
        ValueError: the named weights cannot be had, or are not those of the run.
    """
    complete = dict(state)
    mark = complete.pop(prefix + MARK, None)
    if mark is None:
        network.published = None
        return complete
    _load_named(network, mark, say)
    own = dict(network.named_parameters())
    for name in frozen_names(network):
        complete.setdefault(prefix + name, own[name].detach())
    return complete


def _load_named(network: Diff3RNetwork, mark: Tensor, say: Callable[[str], None]) -> None:
    digest, reference = unpacked(mark)
    if network.published is not None and network.published.sha256 == digest:
        return
    backbone = network.backbone
    if not isinstance(backbone, PretrainedBackbone):
        raise WeightsError(f"the checkpoint names published weights ({reference}), but its backbone takes none")
    named = backbone.config.checkpoint
    # The file may lie elsewhere now; or the settings name it from the folder that the run was begun in.
    if named not in (None, OFFICIAL) and (Path(named).expanduser().is_file() or not Path(reference).is_file()):
        reference = named
    network.published = load_published_weights(backbone, reference, digest, say)
