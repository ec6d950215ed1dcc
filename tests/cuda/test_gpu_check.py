# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_check: parts survive each other, what is missing is said, tools' reports are read as they are meant."""

import importlib
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void ns_diff3r::cuda::run_kernel<ns_diff3r::cuda::EmitKernel<float>>+0x40 in project_kernels.h:180
=========     by thread (1,0,0) in block (0,0,0)
=========
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::elementwise_kernel+0x10
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 2 errors
every kernel ran
"""
XML = """<testsuites><testsuite>
<testcase classname="tests.cuda.test_pcg" name="test_good[device]"/>
<testcase classname="tests.cuda.test_pcg" name="test_left_out[device]"><skipped message="why"/></testcase>
<testcase classname="tests.cuda.test_pcg" name="test_bad[device]"><failure message="CUDA error: illegal access">
trace</failure></testcase></testsuite></testsuites>"""


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("gpu_parts")
    for name in ("gpu_parts", "gpu_machine"):
        sys.modules.pop(name, None)


@pytest.fixture
def call(parts, monkeypatch, tmp_path):
    """gpu_check on a machine with a device, whose parts are pretended: (status, what gpu_check.json holds)."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(parts, "requirements", lambda machine: {"device": "a card"})

    def run(*arguments, **functions):
        for name, function in functions.items():
            monkeypatch.setattr(parts, name, function)
        monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
        return parts.main(), json.loads((tmp_path / "gpu_check.json").read_text())

    return run


def test_a_part_that_fails_leaves_the_others(call, capsys):
    def broken(machine):
        raise OSError("no such tool")

    passing = {"sanitize": lambda machine: {"status": 0}, "benchmark": lambda machine: {"left out": "no numbers"}}
    status, report = call("tests", "sanitize", "benchmark", tests=broken, **passing)
    assert status == 1
    assert report["tests"]["error"] == "OSError: no such tool"
    assert report["sanitize"]["status"] == 0
    assert "left out: no numbers" in capsys.readouterr().out
    status, report = call("tests", tests=lambda machine: {"status": 0})
    assert status == 0
    assert set(report) == {"requirements", "tests", "sanitize", "benchmark"}  # of both calls
    assert report["tests"]["status"] == 0


def test_without_a_device(call, parts, monkeypatch, capsys):
    monkeypatch.setattr(parts, "requirements", lambda machine: {"device": "MISSING: no driver"})
    assert call("build")[0] == 1
    assert "rehearse with --host" in capsys.readouterr().out


def test_only_reports_about_our_kernels_count(parts):
    (block,) = parts.blocks_about(MEMCHECK, ("ns_diff3r",))
    assert block.startswith("========= Invalid __global__ write")
    assert "project_kernels.h:180" in block
    assert "elementwise" not in block


def test_counts_and_tests_that_run_again(parts, monkeypatch, tmp_path):
    """What an illegal access broke is asked again, each test alone."""
    asked = []

    class Machine(parts.Machine):
        def python(self, *arguments, seconds, shown=True, **environment):
            asked.append((arguments[2], environment.get("CUDA_LAUNCH_BLOCKING")))
            xml = next(a for a in arguments if a.startswith("--junitxml=")).partition("=")[2]
            if "::" not in arguments[2]:
                if arguments[2].endswith("test_pcg.py"):
                    Path(xml).write_text(XML)
                return (1, "failed") if arguments[2].endswith("test_pcg.py") else (5, "nothing for a device")
            Path(xml).write_text("<testsuite><testcase classname='tests.cuda.test_pcg' name='test_bad'/></testsuite>")
            return 0, "1 passed"

    monkeypatch.setattr(parts, "BUILD", tmp_path)
    result = parts.tests(Machine(False, tmp_path))
    assert (result["status"], result["passed"], result["failed"], result["skipped"]) == (1, 1, 1, 1)
    name = "tests/cuda/test_pcg.py::test_bad[device]"
    assert asked[-1] == (name, "1")
    assert result["alone"] == {name: "passed alone"}
    assert result["files that did not end"] == []
