# SPDX-License-Identifier: Apache-2.0
"""Small runs of nerfstudio: settings that take seconds, the real commands, one trained run for all tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

ROOM = REPOSITORY / "examples" / "room"
SMALL = (
    *("--pipeline.datamanager.collection.max-size", "48", "--pipeline.model.training.tto.num-steps", "3"),
    *("--pipeline.model.training.tto-steps-eval", "10", "--pipeline.model.training.losses.lpips", "off"),
    *("--pipeline.model.lpips-metric", "off", "--vis", "tensorboard", "--viewer.quit-on-train-completion", "True"),
)
"""Options that make a run small; without a viewer, evaluation goes on during training."""
LOOKING_IN = ((0.0, -9.0, 3.0), (0.7071068, -0.7071068, 0.0, 0.0))
"""A camera of the viewer's before the room, looking along y."""
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def fresh_writers() -> None:
    """nerfstudio's event writers are global, and a second run in one process adds to those of the first."""
    writer = sys.modules.get("nerfstudio.utils.writer")
    if writer is not None:
        writer.EVENT_WRITERS.clear()
        writer.EVENT_STORAGE.clear()


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run one of nerfstudio's commands to its end and return what it printed; a failure fails the test."""
    home = tmp_path_factory.mktemp("working_directory")

    def run(name: str, *arguments: object, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [executable(name), *map(str, arguments)],
            cwd=home,
            env=small_environment() | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    return run


def executable(name: str) -> str:
    """Path of a console script of the environment that runs the tests."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def small_environment() -> dict[str, str]:
    """One thread, wide lines, and the packages of this process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="session")
def trained_run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of `ns-train diff3r-tiny` on the bundled scene: both stages, eight steps."""
    output = tmp_path_factory.mktemp("trained_run")
    command(
        "ns-train",
        "diff3r-tiny",
        *("--data", ROOM, "--output-dir", output, "--timestamp", "run", "--max-num-iterations", 8),
        *("--steps-per-save", 3, "--steps-per-eval-image", 4, "--steps-per-eval-batch", 4),
        *("--logging.steps-per-log", 1, *SMALL),
    )
    return output / "room" / "diff3r-tiny" / "run" / "config.yml"


def small_config(data: Path, output: Path, method: str = "diff3r-tiny", **training: Any) -> Any:
    """A trainer config as the command line makes it, for runs within this process. `training`: some of its settings."""
    from nerfstudio.configs.method_configs import all_methods

    config = deepcopy(all_methods[method])
    config.output_dir, config.timestamp, config.vis, config.max_num_iterations = output, "run", "tensorboard", 4
    config.logging.local_writer.enable = False
    config.logging.profiler = "none"
    config.viewer.quit_on_train_completion = True
    config.steps_per_eval_image = config.steps_per_eval_batch = 10_000
    data_config, model = config.pipeline.datamanager, config.pipeline.model
    data_config.data, data_config.collection.max_size = data, 32
    model.lpips_metric = "off"
    losses = replace(model.training.losses, lpips="off")
    tto = replace(model.training.tto, num_steps=2)
    model.training = replace(model.training, **{"losses": losses, "tto": tto, "tto_steps_eval": 3, **training})
    return config


def make_pipeline(config: Any, test_mode: str = "val") -> Any:
    """The pipeline of a config, on the CPU."""
    config.settle()
    return config.pipeline.setup(device="cpu", test_mode=test_mode)


def scene_of(count: int, folder: Path) -> Path:
    """The first images of the bundled scene as a scene of their own."""
    import json

    content = json.loads((ROOM / "transforms.json").read_text())
    content["frames"] = content["frames"][:count]
    (folder / "images").mkdir(parents=True)
    for frame in content["frames"]:
        shutil.copy(ROOM / frame["file_path"], folder / frame["file_path"])
    shutil.copy(ROOM / content["ply_file_path"], folder / content["ply_file_path"])
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


# --- programs that nerfstudio asks for, and programs that keep running ---


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which nerfstudio's commands find an ffmpeg, which they ask for even to write images, and an
    open3d, which ns-export imports whatever it exports, where the real one does not load."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "ffmpeg").write_text("#!/bin/sh\nexit 0\n")
    (folder / "ffmpeg").chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    if subprocess.run([sys.executable, "-c", "import open3d"], capture_output=True, check=False).returncode:
        (folder / "open3d").mkdir()
        (folder / "open3d" / "__init__.py").write_text(ANYTHING)
        path = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(folder) + (os.pathsep + path if path else "")
    return environment


ANYTHING = """
import sys, types

class Anything(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)

sys.modules[__name__].__class__ = Anything
"""
"""A module that has every name."""


@pytest.fixture
def with_programs(programs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for what runs in this process."""
    monkeypatch.setenv("PATH", programs["PATH"])
    if "PYTHONPATH" in programs:
        monkeypatch.syspath_prepend(programs["PYTHONPATH"].split(os.pathsep)[0])


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextmanager
def running(name: str, *arguments: object, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that is ended after the block, its output in a file of the folder."""
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [executable(name), *map(str, arguments)],
            cwd=folder,
            env=small_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
