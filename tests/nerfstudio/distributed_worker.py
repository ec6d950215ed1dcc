# SPDX-License-Identifier: Apache-2.0
"""One of two processes that train our pipeline together over gloo; started by test_distributed_pipeline.py.

distributed_worker.py RANK RENDEZVOUS_FILE RESULT_FILE OUTPUT_FOLDER
"""

import sys
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

if __name__ == "__main__":
    # A dependency of nerfstudio installs a package named `tests`, which a plain import would find instead of ours.
    sys.modules["tests"] = types.ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).resolve().parents[1])]

from tests.nerfstudio.conftest import ROOM, small_config

WORLD, STEPS, BOUNDARY = 2, 5, 2


def make_config(output: Path, scenes_per_step: int) -> Any:
    from ns_diff3r.training.stages import StageConfig

    config = small_config(ROOM, output, stages=StageConfig(pretrain_steps=BOUNDARY))
    config.max_num_iterations = STEPS
    config.weights = None  # D begins without a history
    config.pipeline.datamanager.sampler.scenes_per_step = scenes_per_step
    return config


def train(trainer: Any) -> list[dict[str, torch.Tensor]]:
    """All steps; gradients of every step (0 where there is none)."""
    trainer.pipeline.train()
    record = []
    for step in range(STEPS):
        trainer.train_iteration(step)
        named = trainer.pipeline.model.core.network.named_parameters()
        record.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named})
    return record


def main(rank: int, rendezvous: str, result: Path, output: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=120)
    )
    trainer = make_config(output / str(rank), scenes_per_step=1).setup(local_rank=rank, world_size=WORLD)
    trainer.setup()
    record = train(trainer)
    torch.save({"gradients": record, "state": trainer.pipeline.model.state_dict()}, result)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
