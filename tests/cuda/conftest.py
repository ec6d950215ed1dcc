# SPDX-License-Identifier: Apache-2.0
"""Work memory comes uninitialised; in these tests it is filled with NaN and large integers."""

import os
import sys
from pathlib import Path

import pytest
import torch

from ns_diff3r import render
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.solver import penalties, preconditioners, ssim, vector_ops
from ns_diff3r.solver.inner import device_run
from tests.cuda.pretend_device import pretended

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by what follows, before the device is used


def pytest_collection_modifyitems(items):
    """On a device torch warns of operations of its own that are not deterministic; the filling of memory is wanted."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*[Dd]eterministic"))


@pytest.fixture(autouse=True)
def _poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _pretended_device(request):
    """With NS_DIFF3R_PRETEND_DEVICE=1 the tests of a device run on a pretended one (scripts/gpu_check --host)."""
    if os.environ.get("NS_DIFF3R_PRETEND_DEVICE") != "1" or request.node.get_closest_marker("cuda") is None:
        yield
        return
    with pretended():
        yield


@pytest.fixture
def everything_by_cuda_kernels(monkeypatch):
    """On CPU tensors too: the renderer, the fused steps, losses and SSIM, the small blocks, PCG, and whole runs."""
    entry = sys.modules[render.__module__]  # the function hides its module's name
    monkeypatch.setattr(entry, "_native", lambda gaussians: CudaLinearization)
    for module in (vector_ops, penalties, ssim, preconditioners):
        monkeypatch.setattr(module, "is_native", lambda tensor: False)
    for module in (vector_ops, penalties, ssim, device_run):
        monkeypatch.setattr(module, "usable", lambda tensor: True)
