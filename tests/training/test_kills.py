# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any moment, a save included, continues to the bit as if it had not been."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ns_diff3r.training.checkpoint import last_complete_checkpoint
from tests.subprocesses import OUR_TESTS
from tests.training.test_run import _one_thread, assert_same, make_loop, results

REPOSITORY = Path(__file__).resolve().parents[2]

__all__ = ["_one_thread"]  # a fixture that is used by being here


WORKER = f"""{OUR_TESTS}
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.training.test_run import make_loop
for record in make_loop(Path(sys.argv[1]), save_every=1).run():
    print(record.step, flush=True)
"""


@pytest.mark.slow
def test_kill_minus_nine_at_any_moment(tmp_path):
    """Killed again and again, in steps and in saves, until it has come to its end."""
    list(make_loop(tmp_path / "whole", save_every=1).run())
    paths = os.pathsep.join([*sys.path, str(REPOSITORY)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    chance = random.Random(0)
    kills = 0
    for _ in range(40):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "killed")],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        line = worker.stdout.readline()  # the imports are over, and a step is done
        if line:
            time.sleep(chance.uniform(0.0, 0.03))
            worker.send_signal(signal.SIGKILL)
        worker.stdout.close()
        if worker.wait(timeout=60) == 0:
            break
        kills += 1
        last_complete_checkpoint(tmp_path / "killed" / "checkpoints")
    else:
        pytest.fail("the run never came to its end")
    assert kills >= 2
    for found, expected in zip(results(tmp_path / "killed"), results(tmp_path / "whole"), strict=True):
        assert_same(found, expected)
    assert len(list((tmp_path / "killed" / "checkpoints").iterdir())) == 1


SLOW_SAVE = f"""{OUR_TESTS}
import sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
from ns_diff3r.training import checkpoint
from tests.training.test_run import make_loop
save, point = torch.save, sys.argv[2]
def stop(*_):
    print("stopped", flush=True)
    time.sleep(60)
def half(state, stream):
    save(state, stream)
    stream.flush()
    stream.truncate(stream.tell() // 2)
    stop()
if point == "half":
    torch.save = half
elif point == "before_rename":
    checkpoint.os.replace = stop
else:
    checkpoint._synchronize = stop
list(make_loop(Path(sys.argv[1]), save_every=2).run())
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["half", "before_rename", "after_rename"])
def test_kill_minus_nine_within_a_save(point, tmp_path):
    list(make_loop(tmp_path / "whole", save_every=2).run())
    steps = make_loop(tmp_path / "killed", save_every=2).run()
    for _ in range(3):
        next(steps)
    del steps
    paths = os.pathsep.join([*sys.path, str(REPOSITORY)])
    worker = subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, str(tmp_path / "killed"), point],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "stopped\n"
    worker.kill()
    worker.wait(timeout=60)
    worker.stdout.close()
    loop = make_loop(tmp_path / "killed", save_every=2)
    assert loop.steps_done == (4 if point == "after_rename" else 2)
    list(loop.run())
    for found, expected in zip(results(tmp_path / "killed"), results(tmp_path / "whole"), strict=True):
        assert_same(found, expected)
    assert [path.name for path in tmp_path.joinpath("killed").iterdir() if path.name.startswith(".")] == []
