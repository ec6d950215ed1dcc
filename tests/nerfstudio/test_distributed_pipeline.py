# SPDX-License-Identifier: Apache-2.0
"""Our pipeline under DistributedDataParallel: two processes over gloo on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]

from tests.nerfstudio import distributed_worker  # noqa: E402
from tests.nerfstudio.conftest import small_environment  # noqa: E402
from tests.nerfstudio.distributed_worker import BOUNDARY, STEPS, WORLD, make_config, train  # noqa: E402


def test_two_processes_stay_equal_and_do_what_one_does_with_both_batches(tmp_path):
    environment = {**small_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    results = [tmp_path / f"{rank}.pt" for rank in range(WORLD)]
    workers = []
    for rank, result in enumerate(results):
        call = [
            sys.executable,
            distributed_worker.__file__,
            str(rank),
            str(tmp_path / "meet"),
            str(result),
            str(tmp_path),
        ]
        workers.append(
            subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        said = [worker.communicate(timeout=280) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
    first, second = (torch.load(result, weights_only=True) for result in results)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert int(first["state"]["core.tto.curvature_scale.num_updates"]) == STEPS - BOUNDARY

    trainer = make_config(Path(tmp_path / "alone"), scenes_per_step=WORLD).setup()
    trainer.setup()
    for step, (ours, alone) in enumerate(zip(first["gradients"], train(trainer), strict=True)):
        for name, expected in alone.items():
            scale = max(float(expected.abs().max()), 1e-7)
            assert (ours[name] - expected).abs().max() < 2e-3 * scale, f"step {step}, {name}"
    for name, value in trainer.pipeline.model.state_dict().items():
        torch.testing.assert_close(first["state"][name], value, atol=1e-4, rtol=1e-3)
