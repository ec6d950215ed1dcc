# SPDX-License-Identifier: Apache-2.0
"""One of two processes that train together over gloo; started by test_distributed.py.

distributed_worker.py RANK RENDEZVOUS_FILE RESULT_FILE CASE
"""

import math
import os
import sys
import types
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ns_diff3r.training.optimizers import GroupOptimizers
from ns_diff3r.training.step import TrainingModule

if __name__ == "__main__":
    # A dependency of nerfstudio installs a package named `tests`, which a plain import would find instead of ours.
    sys.modules["tests"] = types.ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).resolve().parents[1])]

from tests.training.doubles import gradients, make_batch, make_config, make_network

WORLD = 2
CASES = ("frozen", "free", "one_rank_unsound", "both_ranks_unsound")
BOUNDARY = 2


def make_module(case: str) -> TrainingModule:
    config = make_config(pretrain_steps=BOUNDARY, num_steps=5, inner_steps=2, freeze_backbone=case != "free")
    return TrainingModule(make_network(), config).train()


def seeds_of(step: int, rank: int) -> list[int]:
    return [10 * step + rank]


def spoil(module: TrainingModule, rank: int, case: str, step: int) -> None:
    """Unsound in both stages: a prediction that is NaN before and a loss that is NaN after the change of stage."""
    if not (case == "both_ranks_unsound" or (case == "one_rank_unsound" and rank == 1)) or step not in (1, 3, 4):
        return
    network, loss = module.network, module.outer_loss
    if step == 4:

        def wrong_loss(images, truth):
            images.register_hook(lambda gradient: gradient * math.nan)
            del module.outer_loss
            module.outer_loss = loss
            return loss(images, truth)

        module.outer_loss = wrong_loss  # pyright: ignore[reportAttributeAccessIssue]
        return
    forward = network.forward

    def wrong(context, with_prior=True):
        del network.forward
        output = forward(context, with_prior)
        return replace(output, gaussians=output.gaussians.map(lambda leaf: leaf * math.nan))

    network.forward = wrong  # pyright: ignore[reportAttributeAccessIssue]


def main(rank: int, rendezvous: str, result: Path, case: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    module = make_module(case)
    wrapped = DistributedDataParallel(module, find_unused_parameters=True)
    optimizers = GroupOptimizers.make(module.network.param_groups(), module.config)
    record = []
    for step in range(5):
        optimizers.begin_step(step)
        spoil(module, rank, case, step)
        output = wrapped([make_batch(seed) for seed in seeds_of(step, rank)], step)
        output.loss.backward()
        record.append({"gradients": gradients(module.network), **output.backward_scalars()})
        optimizers.end_step(step)
    torch.save({"record": record, "state": module.state_dict()}, result)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    # Not by the interpreter's own end, in which torch's background threads are sometimes still there and abort it.
    sys.stderr.flush()
    os._exit(0)
