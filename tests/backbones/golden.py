# SPDX-License-Identifier: Apache-2.0
"""The official outputs beside the repository: where they are, the rule that fills weights, and their limits."""

import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import shared_path

Measure = Callable[[Tensor, Tensor], Tensor]
VARIABLE = "NS_DIFF3R_GOLDEN"


def golden_folder() -> Path:
    """$NS_DIFF3R_GOLDEN, or the folder beside the repository."""
    return Path(os.environ.get(VARIABLE) or shared_path("golden"))


def golden_files(prefix: str) -> list:
    """Parameters for a test: every .npz whose name begins so, or one that is skipped with the reason."""
    files = sorted(golden_folder().glob(f"{prefix}*.npz"))
    if not files:
        reason = f"no {prefix}*.npz in {golden_folder()} (set ${VARIABLE} to a folder of official outputs)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [pytest.param(path, id=path.stem) for path in files]


def unknown_file(path: Path, expected: str) -> NoReturn:
    """The failure of a test that was given a file it cannot compare with."""
    pytest.fail(f"{path}: no configuration of this name is known here; names are {expected}", pytrace=False)


def golden_keys(name: str) -> dict[str, list[int]]:
    """Official key → shape; the test is skipped where the lists are not at hand."""
    for folder in (golden_folder(), shared_path("golden")):
        path = folder / f"keys_{name}.json"
        if path.is_file():
            return json.loads(path.read_text())
    pytest.skip(f"keys_{name}.json is not at hand")


def check_keys(network: nn.Module, name: str) -> None:
    """Keys and shapes are those of the list."""
    official = golden_keys(name)
    own = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert sorted(own) == sorted(official)
    assert {key: own[key] for key in official} == official


def filled_value(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that the rule gives a key."""
    values = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape).astype(np.float32)
    if key.endswith("weight") and len(shape) >= 2:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("weight"):
        values = 1 + 0.1 * values
    elif key.endswith("gamma"):
        values = 0.3 + 0.05 * values
    else:
        values = 0.1 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def fill(network: nn.Module) -> None:
    """Weights by the rule, in place; the module may be on the meta device and is moved to the CPU."""
    state = {key: filled_value(key, tuple(value.shape)) for key, value in network.state_dict().items()}
    if "cam_dec.fc_fov.0.bias" in state:
        state["cam_dec.fc_fov.0.bias"] = torch.ones(2)
    network.load_state_dict(state, assign=True)


@dataclass(frozen=True)
class Golden:
    """Arrays of one file, as tensors, and the number of views from its name."""

    path: Path
    arrays: dict[str, Tensor]
    num_views: int

    @staticmethod
    def read(path: Path) -> "Golden":
        views = re.search(r"_v(\d+)", path.stem)
        assert views, path
        with np.load(path, allow_pickle=False) as file:
            return Golden(path, {name: torch.from_numpy(file[name]) for name in file.files}, int(views.group(1)))

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]


def worst(actual: Tensor, expected: Tensor) -> Tensor:
    """Largest absolute difference."""
    return (actual.double() - expected.double()).abs().max()


def worst_inverse(actual: Tensor, expected: Tensor) -> Tensor:
    """Largest absolute difference of the inverses."""
    return worst(1 / actual, 1 / expected)


def worst_relative(actual: Tensor, expected: Tensor) -> Tensor:
    """Largest difference, relative to the expected value where that is above 1."""
    return ((actual - expected).abs() / expected.abs().clamp_min(1)).max()


def worst_quaternion(actual: Tensor, expected: Tensor) -> Tensor:
    """Largest difference, up to the sign of each quaternion."""
    signs = torch.where((actual * expected).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return worst(signs * actual, expected)


class Comparison:
    """Differences from the arrays of a file, checked together, so that a failure shows where it begins."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.errors: dict[str, tuple[float, float]] = {}

    def add(self, name: str, actual: Tensor, limit: float, measure: Measure = worst) -> None:
        """Of the array `name`, if the file has it; a batch of one scene is dropped from it."""
        if name not in self.golden.arrays:
            return
        expected = self.golden[name]
        expected = expected[0] if expected.ndim > actual.ndim else expected
        assert actual.shape == expected.shape, (name, tuple(actual.shape), tuple(expected.shape))
        self.errors[name] = (float(measure(actual.detach(), expected)), limit)

    def check(self, inputs: set[str]) -> None:
        """Every array of the file but the `inputs` was compared, and lies within its limit."""
        lines = [f"{name:24s} {error:.2e} (limit {limit:.0e})" for name, (error, limit) in self.errors.items()]
        print("\n".join(lines))
        stored = self.golden.arrays.keys() - inputs
        assert stored, f"{self.golden.path}: no outputs"
        assert not stored - self.errors.keys(), f"{self.golden.path}: not compared: {stored - self.errors.keys()}"
        assert all(error <= limit for error, limit in self.errors.values()), "\n" + "\n".join(lines)
