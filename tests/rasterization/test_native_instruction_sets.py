# SPDX-License-Identifier: Apache-2.0
"""Every instruction set computes the same, each in a process of its own (the choice is made once per process)."""

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ns_diff3r import extension, linearize
from tests.rasterization.native_cases import BACKGROUNDS, SIZE, all_products
from tests.scenes import make_scene
from tests.subprocesses import OUR_TESTS

NEEDS = {"baseline": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512dq", "avx512vl", "avx512bw"}}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
KINDS = ("generic", "opaque", "stack", "beyond_clamp", "dark")

PROGRAM = """{tests}
import sys, torch
sys.path[:0] = {path!r}
from tests.rasterization.test_native_instruction_sets import results
from ns_diff3r import extension
torch.set_num_threads(1)
torch.save((extension.cpu().instruction_set(), results()), {file!r})
"""


@functools.cache
def features() -> set[str] | None:
    """The processor's flags; None where they cannot be read or mean something else."""
    info = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not info.exists():
        return None
    return set(next(line for line in info.read_text().splitlines() if line.startswith("flags")).split())


def results():
    """Products of some scenes in both precisions, for the same numbers."""
    found = {}
    for kind in KINDS:
        for dtype in TOLERANCE:
            gaussians, cameras = (x.to(dtype=dtype) for x in make_scene(kind, 2, 20, 2, SIZE, torch.float32))
            linearization = linearize(gaussians, cameras, "gsplat-1.4.0", BACKGROUNDS, antialiased=True)
            found |= {(kind, dtype, name): x for name, x in all_products(linearization).items()}
    return found


@functools.cache
def here():
    return results()


def in_subprocess(instruction_set, program):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NS_DIFF3R_ISA": instruction_set},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("instruction_set", NEEDS)
def test_instruction_set(instruction_set, tmp_path):
    if NEEDS[instruction_set] and features() is None:
        pytest.skip("not an x86-64 processor, or its features cannot be read")
    missing = NEEDS[instruction_set] - (features() or set())
    if missing:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}")
    file = tmp_path / "results.pt"
    completed = in_subprocess(instruction_set, PROGRAM.format(path=sys.path, tests=OUR_TESTS, file=str(file)))
    assert completed.returncode == 0, completed.stderr
    used, found = torch.load(file)
    assert used == instruction_set
    assert found.keys() == here().keys()
    for (kind, dtype, name), value in found.items():
        expected = here()[kind, dtype, name]
        error = (value.double() - expected.double()).norm() / expected.double().norm()
        assert error <= TOLERANCE[dtype], f"{kind} {dtype} {name}: {error:.1e}"


def test_the_best_set_is_the_default():
    if features() is None or "NS_DIFF3R_ISA" in os.environ:
        pytest.skip("the processor's features cannot be read, or the set was chosen")
    best = [name for name, needs in NEEDS.items() if needs <= features()][-1]
    assert extension.cpu().instruction_set() == best
    assert best in extension.describe()


def test_unknown_set_is_refused():
    program = "import ns_diff3r._cpu as cpu\ntry: cpu.instruction_set()\nexcept RuntimeError as error: print(error)"
    completed = in_subprocess("sse9", f"import sys; sys.path[:0] = {sys.path!r}\n{program}")
    assert completed.returncode == 0, completed.stderr
    for word in ("NS_DIFF3R_ISA=sse9", "baseline", "avx2", "avx512"):
        assert word in completed.stdout
