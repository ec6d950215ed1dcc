# SPDX-License-Identifier: Apache-2.0
"""Iterations of PCG on a scene's own system, against preconditioner, λ and residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from ..rasterization import linearize
from ..solver import DifferentiableTTO, LearningRates, PCGConfig, TTOConfig
from ..solver.curvature_scale import floored, scene_curvature
from ..solver.normal_operator import NormalOperator
from ..solver.pcg import PCGResult, pcg
from ..solver.preconditioners import PreconditionerKind, make_preconditioner
from ..solver.prior import Prior
from ..splats.frames import normalized_frame
from .scene_options import SceneOptions

RESIDUALS = (1e-1, 1e-2, 1e-3)
LAMBDAS = (10.0, 1.0, 0.1, 0.01)


def scene_iterations(
    data: Path,
    *,
    max_size: int = 128,
    num_context: int = 0,
    fit_steps: int = 200,
    learning_rate_factor: float = 4.0,
    max_iterations: int = 500,
    lambdas: Sequence[float] = LAMBDAS,
) -> list[dict[str, Any]]:
    """One row per λ and preconditioner: iterations until the relative residual falls to 1e-1, 1e-2, 1e-3.

    The Gaussians are those of the scene's sparse points, fitted to its context views (`num_context`, 0: all that are
    not held out) as `ns-diff3r optimize` fits them; A is that of the default inner loss there; the right-hand side is
    the gradient of the MSE of held-out views. Float32, zero start. Each preconditioner measures the residual in its own
    norm, sqrt(rᵀM⁻¹r); None: not within `max_iterations`.
    """
    _, gaussians, context, targets = SceneOptions(data, num_context=num_context, max_size=max_size).load(torch.float32)
    if targets is None:
        raise ValueError(f"{data}: no view is left for the right-hand side")
    rates = {name: learning_rate_factor * rate for name, rate in asdict(LearningRates()).items()}
    config = TTOConfig(num_steps=fit_steps, learning_rates=LearningRates(**rates))
    with torch.no_grad():
        gaussians, _ = DifferentiableTTO(config).eval()(gaussians, None, context)
    frame = normalized_frame(gaussians, context.cameras)
    gaussians, context, targets = (
        frame.apply_gaussians(gaussians),
        frame.apply_views(context),
        frame.apply_views(targets),
    )
    outer = linearize(gaussians, targets.cameras, config.preset)
    rhs = outer.vjp((outer.rgb - targets.images) * (2 / targets.images.numel())).flatten()
    linearization = linearize(gaussians, context.cameras, config.preset)
    curvature = config.loss.linearize(linearization.rgb, context.images).curvature
    n = context.images.numel()
    scale = floored(scene_curvature(linearization, curvature, n).tolist())
    flat = gaussians.flatten()

    rows = []
    for strength in lambdas:
        prior = Prior(flat, torch.full_like(flat, strength), scale, gaussians.group_slices())
        operator = NormalOperator(linearization, curvature, n, prior.strength)
        for kind in get_args(PreconditionerKind):
            solve = PCGConfig(preconditioner=kind, tolerance=min(RESIDUALS), max_iterations=max_iterations)
            result = pcg(operator, rhs, solve, make_preconditioner(kind, operator))
            counts = {f"to {residual:g}": _iterations_to(result, residual) for residual in RESIDUALS}
            common = {"scene": data.name, "views": context.num_views, "Gaussians": gaussians.num_gaussians}
            solve_of = {"λ": strength, "preconditioner": kind}
            rows.append({**common, **solve_of, **counts, "status": result.status.value})
    return rows


def _iterations_to(result: PCGResult, residual: float) -> int | None:
    return next((i for i, value in enumerate(result.residual_history) if value <= residual), None)
