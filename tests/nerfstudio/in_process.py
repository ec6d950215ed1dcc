# SPDX-License-Identifier: Apache-2.0
"""Runs of ns-train within this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def train(config: Any) -> tuple[list[dict[str, float]], Path]:
    """Run to the end; (loss terms of every step, checkpoint folder)."""
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    losses = []
    plain = trainer.train_iteration

    def recorded(step):
        loss, terms, metrics = plain(step)
        losses.append({"step": step, "loss": float(loss.detach()), **{k: float(v.detach()) for k, v in terms.items()}})
        return loss, terms, metrics

    trainer.train_iteration = recorded
    trainer.train()
    return losses, trainer.checkpoint_dir


def failing(config: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a run ends before its first step."""
    with pytest.raises(SystemExit) as ended:
        train(config)
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "Traceback" not in shown
    return " ".join(shown.split())
