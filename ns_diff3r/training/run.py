# SPDX-License-Identifier: Apache-2.0
"""A training run on disk: settings.json, metrics.jsonl and checkpoints/, each complete at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..backbones import BackboneConfig, UncertaintyHeadConfig
from ..data import BatchSampler, CollectionConfig, SamplerConfig, open_collection
from .checkpoint import last_complete_checkpoint, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .network import build_network
from .optimizers import GroupOptimizers
from .published import completed_state
from .settings import differences, from_plain, to_plain
from .step import TrainingModule

FORMAT = "ns_diff3r fit 1"
NETWORK_PREFIX = "network."
"""Of the network's names within those of a training module."""


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run of `ns-diff3r fit`."""

    data: Path
    backbone: BackboneConfig
    uncertainty: UncertaintyHeadConfig = field(default_factory=UncertaintyHeadConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    weights: Path | None = None
    """Trained weights that the run begins with; opening the run afterwards does not need them."""
    mixture_sha256: str | None = None
    """Of the file that `data` is, where it names several sources: a run continues with the same alone."""

    def module(self) -> TrainingModule:
        """The network with its initial weights, test-time optimisation and loss."""
        return TrainingModule(build_network(self.backbone, self.uncertainty, self.training.seed), self.training)

    def batch_sampler(self) -> BatchSampler:
        """The data; SceneError if they cannot be used."""
        return BatchSampler(self.sampler, open_collection(self.data, self.collection))


class RunFolder:
    """Where a run keeps its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The last complete one."""
        return last_complete_checkpoint(self.checkpoints)

    def begin(self, settings: RunSettings) -> None:
        """Make the folder and write the settings. OSError if it cannot be written."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(self.settings_file, json.dumps(to_plain(settings), indent=1) + "\n")
        except OSError as error:
            raise OSError(f"cannot write to {self.path}: {error.strerror}") from error

    def stored_settings(self) -> dict[str, Any] | None:
        """Settings of the run in this folder as plain values; None without one.

        Raises:
            ValueError: the file is broken.
        """
        if not self.settings_file.is_file():
            return None
        try:
            return json.loads(self.settings_file.read_text())
        except ValueError as error:
            raise ValueError(f"{self.settings_file}: broken: {error}") from error

    def changed_settings(self, settings: RunSettings) -> list[str]:
        """Names of the settings in which the run in this folder differs; [] also without a run."""
        stored = self.stored_settings()
        if stored is None:
            return []
        known = to_plain(from_plain(RunSettings, stored))  # settings that are newer than the run have their defaults
        return differences(known, to_plain(settings))

    def save(
        self, settings: RunSettings, module: TrainingModule, optimizers: GroupOptimizers, steps_done: int, keep: bool
    ) -> Path:
        """Write the checkpoint after `steps_done` steps. OSError if it cannot be written."""
        state = {
            "format": FORMAT,
            "step": steps_done,
            "settings": json.dumps(to_plain(settings)),
            "module": module.state_dict(),
            "optimizers": optimizers.state_dict(),
            "random_state": torch.get_rng_state(),
        }
        return save_checkpoint(self.checkpoints, steps_done, state, keep_previous=keep)

    def restore(self, module: TrainingModule, optimizers: GroupOptimizers) -> int:
        """Continue from the last complete checkpoint, if there is one; returns the steps done, 0 without one.

        Raises:
            ValueError: a checkpoint of another method, or whose weights do not fit.
        """
        path = self.last_checkpoint
        if path is None:
            return 0
        state = load_fit_checkpoint(path)
        load_weights(module, state["module"], str(path))
        optimizers.load_state_dict(state["optimizers"])
        torch.set_rng_state(state["random_state"])
        return int(state["step"])

    def keep_metrics_before(self, step: int) -> None:
        """Drop lines of metrics.jsonl from `step` on, and one that was cut off: those steps will be taken again."""
        if not self.metrics_file.is_file():
            return
        kept = [json.dumps(record) for record in read_metrics(self.metrics_file) if record["step"] < step]
        write_text(self.metrics_file, "".join(f"{line}\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl, up to the first line that is not whole."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def load_fit_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `ns-diff3r fit`; ValueError naming the file if it is something else."""
    state = load_checkpoint(path)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of ns-diff3r fit (it holds {', '.join(map(str, list(state)[:6]))})")
    return state


def load_weights(module: TrainingModule, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict; ValueError that lists what is missing, unexpected or of another shape.

    Published weights that it names instead of holding them are fetched first.
    """
    state = completed_state(module.network, state, NETWORK_PREFIX)
    with module.network.holding_all():
        own = module.state_dict()
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in own]
    faults += [
        f"{name} is {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        raise ValueError(f"{source}: its weights do not fit this network: {_listing(faults)}")
    module.load_state_dict(state)


def write_text(path: Path, text: str) -> None:
    """Replace a file by one step."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _listing(faults: Iterable[str], shown: int = 4) -> str:
    faults = list(faults)
    rest = f" and {len(faults) - shown} more" if len(faults) > shown else ""
    return "; ".join(faults[:shown]) + rest
