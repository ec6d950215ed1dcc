# SPDX-License-Identifier: Apache-2.0
"""Work memory comes uninitialised; in these tests it is filled with NaN and large integers."""

import sys

import pytest
import torch

from ns_diff3r import render
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.solver import penalties, preconditioners, ssim, vector_ops
from ns_diff3r.solver.inner import device_run


@pytest.fixture(autouse=True)
def _poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def everything_by_cuda_kernels(monkeypatch):
    """On CPU tensors too: the renderer, the fused steps, losses and SSIM, the small blocks, PCG, and whole runs."""
    entry = sys.modules[render.__module__]  # the function hides its module's name
    monkeypatch.setattr(entry, "_native", lambda gaussians: CudaLinearization)
    for module in (vector_ops, penalties, ssim, preconditioners):
        monkeypatch.setattr(module, "is_native", lambda tensor: False)
    for module in (vector_ops, penalties, ssim, device_run):
        monkeypatch.setattr(module, "usable", lambda tensor: True)
