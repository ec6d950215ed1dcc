# SPDX-License-Identifier: Apache-2.0
"""Two processes over gloo on the CPU stay equal, and do what one process does with both batches."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ns_diff3r.training.optimizers import GroupOptimizers
from tests.training import distributed_worker
from tests.training.distributed_worker import BOUNDARY, WORLD, make_module, seeds_of
from tests.training.doubles import gradients, make_batch

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


def run_pair(folder: Path, case: str) -> list[dict[str, Any]]:
    """Results of both ranks."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, str(REPOSITORY)])}
    results = [folder / f"{case}-{rank}.pt" for rank in range(WORLD)]
    workers = [
        subprocess.Popen(
            [sys.executable, distributed_worker.__file__, str(rank), str(folder / f"{case}-meet"), str(result), case],
            env=environment,
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, result in enumerate(results)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return [torch.load(result, weights_only=True) for result in results]


@pytest.mark.parametrize("case", ["frozen", "free"])
def test_two_processes_equal_one_with_both_batches(case, tmp_path):
    first, second = run_pair(tmp_path, case)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert int(first["state"]["tto.curvature_scale.num_updates"]) == 5 - BOUNDARY

    module = make_module(case)
    optimizers = GroupOptimizers.make(module.network.param_groups(), module.config)
    for step in range(5):
        optimizers.begin_step(step)
        scenes = [make_batch(seed) for rank in range(WORLD) for seed in seeds_of(step, rank)]
        module(scenes, step).loss.backward()
        for name, expected in gradients(module.network).items():
            found = [result["record"][step]["gradients"][name] for result in (first, second)]
            if expected is None:
                assert found == [None, None], (step, name)
            else:
                assert torch.equal(*found)
                assert (found[0] - expected).norm() < 1e-4 * expected.norm(), (step, name)
        optimizers.end_step(step)
        # From here on the single process has the weights of the others, to the rounding of a sum.
        trained = {n for n, g in gradients(module.network).items() if g is not None}
        assert any(n.startswith("uncertainty") for n in trained) == (step >= BOUNDARY)
        assert any(n.startswith("backbone.trunk") for n in trained) == (step < BOUNDARY or case == "free")
    average = "tto.curvature_scale.average"
    torch.testing.assert_close(first["state"][average], module.state_dict()[average], rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", ["one_rank_unsound", "both_ranks_unsound"])
def test_a_scene_left_out_stops_no_other_process(case, tmp_path):
    first, second = run_pair(tmp_path, case)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        assert bool(value.isfinite().all()), name
    skipped = [[step["skipped_scenes"] for step in result["record"]] for result in (first, second)]
    unsound = [0.0, 1.0, 0.0, 1.0, 1.0]
    assert skipped == [unsound if case == "both_ranks_unsound" else [0.0] * 5, unsound]
    for result in (first, second):
        for step, record in enumerate(result["record"]):
            found = [g for g in record["gradients"].values() if g is not None]
            both_out = case == "both_ranks_unsound" and unsound[step] == 1.0
            assert any(bool(g.any()) for g in found) == (not both_out), step
