# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint a run continues, and how far it then goes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .training.checkpoint import NAME, checkpoint_name, last_complete_checkpoint, load_checkpoint
from .training.weights import SETTINGS_FILE

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig


@dataclass(frozen=True)
class RunPlan:
    """What a run of ns-train does.

    Attributes:
        checkpoint: that it continues, or None.
        first_step: the first step it takes.
        num_iterations: steps that it takes.
        num_steps: length of the schedule: stages and learning rates are fractions of it.
    """

    checkpoint: Path | None
    first_step: int
    num_iterations: int
    num_steps: int


def plan_run(config: TrainerConfig) -> RunPlan:
    """What the options ask for.

    A run that was interrupted keeps its schedule, and by the same command it ends where it would have ended. Otherwise
    --max-num-iterations is, as everywhere in nerfstudio, the number of further steps; a run that had reached its end
    has its schedule stretched to the new one.

    Raises:
        FileNotFoundError, ValueError: a checkpoint that was asked for and is not there, or is none.
    """
    wanted = config.max_num_iterations
    path = checkpoint_to_load(config)
    if path is None:
        return RunPlan(None, 0, wanted, wanted)
    first = _step_of(path) + 1
    length = _stored_length(path)
    if length is None or first >= length:
        return RunPlan(path, first, wanted, first + wanted)
    return RunPlan(path, first, length - first if wanted == length else wanted, length)


def checkpoint_to_load(config: TrainerConfig) -> Path | None:
    """--load-checkpoint, or in --load-dir that of --load-step or the last complete one; None if none is asked for.

    Raises:
        FileNotFoundError: there is none where one was asked for.
    """
    if config.load_dir is None:
        if config.load_checkpoint is not None and not config.load_checkpoint.is_file():
            raise FileNotFoundError(f"{config.load_checkpoint}: no such checkpoint (--load-checkpoint)")
        return config.load_checkpoint
    if not config.load_dir.is_dir():
        raise FileNotFoundError(f"{config.load_dir}: no such folder (--load-dir)")
    if config.load_step is not None:
        path = config.load_dir / checkpoint_name(config.load_step)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint (--load-step {config.load_step})")
        return path
    path = last_complete_checkpoint(config.load_dir)
    if path is None:
        raise FileNotFoundError(f"{config.load_dir}: no complete checkpoint (step-*.ckpt) in this folder (--load-dir)")
    return path


def _step_of(path: Path) -> int:
    named = NAME.fullmatch(path.name)
    if named is not None:
        return int(named.group(1))
    step = load_checkpoint(path).get("step")
    if not isinstance(step, int):
        raise ValueError(f"{path}: not a checkpoint of ns-train (it has no step)")
    return step


def _stored_length(path: Path) -> int | None:
    """Length of the schedule of the run that a checkpoint is of, where its settings.json says."""
    for folder in (path.parent, path.parent.parent):
        try:
            return int(json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))["training"]["num_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
