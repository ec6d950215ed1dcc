# SPDX-License-Identifier: Apache-2.0
"""Reconstructing one scene with a trained network: predict, then optimise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..solver import DifferentiableTTO, TTOSolution
from ..splats import Gaussians, Views
from .network import NetworkOutput
from .step import TrainingModule, unusable


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A scene before and after test-time optimisation; nothing here carries gradients."""

    before: Gaussians
    """θ⁰, in the world of the context cameras."""
    after: Gaussians
    """θ*; the same object as `before` if no step was taken."""
    output: NetworkOutput
    """λ and the backbone's own result."""
    solution: TTOSolution | None
    """Report of the optimisation; None if no step was taken."""
    predict_seconds: float
    tto_seconds: float


@torch.no_grad()
def reconstruct(
    module: TrainingModule,
    context: Views,
    num_steps: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Reconstruction:
    """Predict the scene of `context` and fit it to these views.

    Args:
        module: as trained; its modes are left as they were, its D is not updated.
        context: views with near and far; they are taken to the device of the module.
        num_steps: of test-time optimisation; None: as the settings say for evaluation; 0: prediction alone.
        progress: called at every iterate of the optimisation with the number of steps taken and the inner loss there.

    Raises:
        ValueError: the network predicts something that cannot be rendered or optimised; what the backbone refuses.
    """
    with evaluating(module):
        context = context.to(device_of(module))
        begin = time.perf_counter()
        output = module.network(context)
        predicted = time.perf_counter() - begin
        context = output.prediction.as_seen(context)
        fault = unusable(output, context.cameras)
        if fault is not None:
            raise ValueError(f"the prediction cannot be used: {fault}")
        before = output.gaussians
        layer = evaluation_layer(module, num_steps)
        layer.progress = progress
        if layer.config.num_steps == 0:
            return Reconstruction(before, before, output, None, predicted, 0.0)
        begin = time.perf_counter()
        after, solution = layer(before, output.prior, context)
        return Reconstruction(before, after, output, solution, predicted, time.perf_counter() - begin)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are."""
    return next(module.parameters()).device


def evaluation_layer(module: TrainingModule, num_steps: int | None = None) -> DifferentiableTTO:
    """Test-time optimisation with the settings of evaluation, in evaluation mode; with the D of training, unless the
    settings want each scene's own."""
    layer = DifferentiableTTO(module.config.evaluation_config(num_steps))
    if module.config.tto_scale_eval == "training":
        layer.curvature_scale = module.tto.curvature_scale
    # Not layer.eval(): that would reach into the shared buffers' module. Only the layer's own flag is read.
    layer.training = False
    return layer


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; every submodule's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
