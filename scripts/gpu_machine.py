# SPDX-License-Identifier: Apache-2.0
"""What scripts/gpu_check runs on: how commands are called and shown there, and what is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu_check"
JAXTYPING = """import typing
class _Shaped:
    def __class_getitem__(cls, item): return item[0] if isinstance(item, tuple) else typing.Any
Float = Bool = Int = UInt8 = Integer = Shaped = Num = _Shaped
"""
"""Stands in for jaxtyping where that is missing: annotations without shapes."""

Result = dict[str, Any]


class Machine:
    """What is here, and how commands are run."""

    def __init__(self, host: bool, out: Path) -> None:
        self.host, self.out = host, out
        self.deadline = float("inf")
        for folder in (out, BUILD):
            folder.mkdir(parents=True, exist_ok=True)
        self.environment = dict(os.environ, PYTHONUNBUFFERED="1")
        paths = [str(Path(sys.executable).parent), self.environment.get("PATH", ""), "/usr/local/cuda/bin"]
        self.environment["PATH"] = os.pathsep.join(paths)
        python_path = [str(ROOT), str(ROOT / "scripts"), self.environment.get("PYTHONPATH", "")]
        if importlib.util.find_spec("jaxtyping") is None:
            stand_in = BUILD / "stand_in"
            stand_in.mkdir(exist_ok=True)
            (stand_in / "jaxtyping.py").write_text(JAXTYPING)
            python_path.append(str(stand_in))
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))

    def say(self, text: str) -> None:
        print(text, flush=True)
        with open(self.out / "gpu_check.log", "a", encoding="utf8") as log:
            log.write(text + "\n")

    def tool(self, name: str) -> str | None:
        return shutil.which(name, path=self.environment["PATH"])

    def run(self, command: Sequence[str], seconds: float, shown: bool = True, **environment: str) -> tuple[int, str]:
        """Exit status (124: out of time) and output of a command, which is shown when it has ended."""
        seconds = max(1.0, min(seconds, self.deadline - time.monotonic()))
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**self.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
            status, text = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            text = output.decode(errors="replace") if isinstance(output, bytes) else output
            status, text = 124, text + f"\nended after {seconds:.0f} s\n"
        except OSError as error:
            status, text = 127, str(error)
        if shown:
            self.say(text.rstrip())
        return status, text

    def python(self, *arguments: str, seconds: float, shown: bool = True, **environment: str) -> tuple[int, str]:
        return self.run([sys.executable, *arguments], seconds, shown, **environment)


def requirements(machine: Machine) -> Result:
    """One line for everything that is used; "MISSING" says what is left out without it."""
    code = "import {0}; print(getattr({0}, '__version__', 'here'))"
    found: Result = {"python": sys.version.split()[0]}
    for module, without in {
        "torch": "nothing works",
        "numpy": "nothing works",
        "pybind11": "no build",
        "jaxtyping": "a stand-in without checks is used",
        "pytest": "no tests",
        "gsplat": "no comparison with gsplat",
    }.items():
        status, text = machine.python("-c", code.format(module), seconds=120, shown=False)
        found[module] = text.split()[-1] if status == 0 else f"MISSING: {without}"
    for tool, without in {
        "nvcc": "no build",
        "cmake": "no build",
        "c++": "no build",
        "ninja": "slower build by make",
        "compute-sanitizer": "no sanitize",
        "ncu": "profile by torch alone",
    }.items():
        found[tool] = machine.tool(tool) or f"MISSING: {without}"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    found["Python.h"] = str(header) if header.exists() else "MISSING: no build"
    code = (
        "import torch; p = torch.cuda.get_device_properties(0); "
        "print(p.name, f'{p.major}.{p.minor}', 'CUDA', torch.version.cuda, f'{p.total_memory / 1e9:.0f} GB', "
        "p.multi_processor_count, 'multiprocessors')"
    )
    status, text = machine.python("-c", code, seconds=120, shown=False)
    found["device"] = text.strip() if status == 0 else "MISSING: " + (text.strip().splitlines() or ["none"])[-1]
    for name, state in found.items():
        machine.say(f"{name:<18} {state}")
    return found
