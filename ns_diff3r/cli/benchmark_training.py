# SPDX-License-Identifier: Apache-2.0
"""Times of training steps: through test-time optimisation against feed-forward, and what the prior costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ..backbones import BackboneConfig, CompactConfig, UncertaintyHeadConfig
from ..data.batches import SceneBatch
from ..data.generated import FAR, NEAR, pixel_aligned_scene
from ..rasterization import render
from ..solver import PCGConfig, TTOConfig
from ..solver.curvature_scale import floored, scene_curvature
from ..solver.image_loss import ImageObjective
from ..solver.inner.protocol import InnerPoint
from ..solver.prior import Prior
from ..solver.problem import SceneProblem
from ..solver.scene_job import make_linearizer
from ..splats import Gaussians, Views
from ..training.config import LossConfig, TrainingConfig
from ..training.network import build_network
from ..training.optimizers import GroupOptimizers
from ..training.stages import StageConfig
from ..training.step import TrainingModule
from .benchmark_solver import training_pair
from .measure import durations, ratio

PRETRAIN_STEP, BILEVEL_STEP = 0, 1


def generated_batch(image_size: int, num_context: int = 2, num_targets: int = 2) -> SceneBatch:
    """Context and target views of a generated scene."""
    scene, cameras = pixel_aligned_scene(image_size, num_views=num_context + num_targets)
    with torch.no_grad():
        images = render(scene, cameras).rgb.clamp(0, 1)
    depths = images.new_ones(len(images))
    views = Views(images, cameras, 0.8 * NEAR * depths, 1.2 * FAR * depths)
    context = torch.linspace(0, len(images) - 1, num_context).round().long().tolist()
    targets = [view for view in range(len(images)) if view not in context]
    return SceneBatch("generated", views[torch.tensor(context)], views[torch.tensor(targets)])


def training_step_times(
    image_size: int,
    tto_steps: int,
    pcg_iterations: int | None,
    rounds: int,
    backbone: BackboneConfig | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """One training step of each stage on one scene, gradients and optimiser included; medians over rounds.

    "TTO share" is the part of the additional time of the second kind of step that passes in the forward optimisation;
    "solve share" the part in the linear solve of the backward pass.

    Args:
        image_size: side of two context and two target views.
        tto_steps: of the inner optimisation.
        pcg_iterations: exactly so many iterations of the solve; None: as many as the default tolerance takes.
        rounds: how often both steps are measured, in turn.
        backbone: settings of the network; default: those of `compact`.
        device: where network and renderer work; on a CUDA device a step ends when all that it launched has.
    """
    pcg = PCGConfig() if pcg_iterations is None else PCGConfig(tolerance=1e-30, max_iterations=pcg_iterations)
    config = TrainingConfig(
        num_steps=2,
        stages=StageConfig(pretrain_steps=1),
        losses=LossConfig(lpips="off"),
        tto=TTOConfig(num_steps=tto_steps, pcg=pcg),
    )
    network = build_network(backbone or CompactConfig(), UncertaintyHeadConfig())
    module = TrainingModule(network, config).to(device).train()
    optimizers = GroupOptimizers.make(network.param_groups(), config)
    batch = generated_batch(image_size).to(device)
    parts: dict[str, list[float]] = {"tto": [], "solve": [], "iterations": []}

    def run(step: int) -> Callable[[], None]:
        def call() -> None:
            optimizers.begin_step(step)
            output = module([batch], step)
            output.loss.backward()
            optimizers.end_step(step)
            if device != "cpu":
                torch.cuda.synchronize(device)
            if step == BILEVEL_STEP:
                after = output.backward_scalars()
                parts["tto"].append(output.scalars["seconds_tto"])
                parts["solve"].append(after["seconds_solve"])
                parts["iterations"].append(after["pcg_iterations"])

        return call

    times = durations({"plain": run(PRETRAIN_STEP), "bilevel": run(BILEVEL_STEP)}, rounds)
    plain, bilevel = (statistics.median(times[name]) for name in ("plain", "bilevel"))
    tto, solve = (statistics.median(parts[name][1:]) for name in ("tto", "solve"))  # the first warmed up
    return {
        "views": f"2+2 x {image_size}²",
        "TTO steps": tto_steps,
        "PCG iterations": round(statistics.median(parts["iterations"])),
        "plain ms": 1e3 * plain,
        "bilevel ms": 1e3 * bilevel,
        "ratio": statistics.median(b / p for p, b in zip(times["plain"], times["bilevel"], strict=True)),
        "TTO ms": 1e3 * tto,
        "solve ms": 1e3 * solve,
        "TTO share %": 100 * tto / (bilevel - plain),
        "solve share %": 100 * solve / (bilevel - plain),
    }


def prior_cost(image_size: int, rounds: int, num_views: int = 2) -> dict[str, Any]:
    """A step of test-time optimisation with a prior over one without; λ per Gaussian and attribute group, Λ at hand.

    Both kinds take turns, always from the same point: further on they would draw different pictures. Times are those of
    the processor, which other programs do not change; medians over 20 steps a round.
    """
    start, views = training_pair(image_size, num_views)
    flat = start.flatten()
    runs = {"without": _Run(start, views, None)}
    evaluation = runs["without"].problem.evaluate(start)
    curvature = scene_curvature(evaluation.linearization, evaluation.loss.curvature, views.images.numel())
    scale = floored(curvature.tolist())
    runs["with"] = _Run(start, views, Prior(flat, torch.ones_like(flat), scale, start.group_slices()))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + 20 * rounds):
        for name, run in runs.items():
            begin = time.process_time()
            run.step()
            times[name].append(time.process_time() - begin)
    times = {name: durations[1:] for name, durations in times.items()}  # the first warms up
    without, with_prior = (statistics.median(times[name]) for name in ("without", "with"))
    return {
        "views": f"{num_views} x {image_size}²",
        "Gaussians": start.num_gaussians,
        "without ms": 1e3 * without,
        "with prior ms": 1e3 * with_prior,
        "ratio": ratio(times["with"], times["without"]),
    }


class _Run:
    """The first step of test-time optimisation, as `run_trajectory` takes it, again and again."""

    def __init__(self, start: Gaussians, views: Views, prior: Prior | None) -> None:
        config = TTOConfig()
        objective = ImageObjective(config.loss, views.images)
        self.problem = SceneProblem(objective, make_linearizer(config, views.cameras, start))
        self.prior = prior
        self.start = start
        self.theta = start.flatten()
        self.optimizer = config.make_optimizer()
        self.state = self.optimizer.init(start)
        self.out = torch.empty_like(self.theta)

    def step(self) -> None:
        evaluation = self.problem.evaluate(self.start.unflatten(self.theta))
        point = InnerPoint(self.theta, evaluation.linearization, evaluation.loss, self.prior, frozenset(), 0)
        self.optimizer.step(self.state, point, self.out)
