# SPDX-License-Identifier: Apache-2.0
"""One training step as one call of one module, so that DistributedDataParallel can wrap it (design §2, §3)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.batches import SceneBatch
from ..rasterization import render
from ..solver import BackwardMode, DifferentiableTTO
from ..solver.inner import TTOStatus
from ..solver.pcg import PCGStatus
from ..splats import GROUPS, Cameras, Gaussians
from ..splats.frames import normalized_frame
from .config import TrainingConfig
from .guards import Gradients, all_finite, gate
from .losses import OuterLoss
from .network import Diff3RNetwork, NetworkOutput
from .outputs import SceneReport, StepOutput, mean_scalars, prior_quantiles, solution_scalars
from .published import trains_backbone
from .stages import Stage

logger = logging.getLogger("ns_diff3r")


class TrainingModule(nn.Module):
    """The network, test-time optimisation and the outer loss.

    Stage 1: θ⁰ = network(context), loss on the target views. Stage 2: θ* = TTO(θ⁰, λ, context), loss of θ* and α times
    that of θ⁰ on the target views, differentiated through TTO.

    A scene whose prediction, optimisation, loss or gradient is unsound takes no part in the step: it is reported,
    logged as a warning, and contributes nothing to the gradient. The losses are averaged over all scenes of the batch,
    those left out counting as 0, so that processes weigh equally.
    """

    def __init__(self, network: Diff3RNetwork, config: TrainingConfig, grad_scaler: bool = False) -> None:
        """`grad_scaler`: a gradient scaler is in use, which must see overflows to learn from them; they are then left
        to it. Raises what `OuterLoss` does."""
        super().__init__()
        self.network = network
        self.config = config
        network.holds_backbone = trains_backbone(config)
        self.tto = DifferentiableTTO(config.layer_config())
        self.outer_loss = OuterLoss(config.losses)
        self.grad_scaler = grad_scaler

    def forward(self, batches: Sequence[SceneBatch], step: int) -> StepOutput:
        """Losses and reports of step `step` (from 0) on one or more scenes.

        Sets which parameters require gradients, by the stage. All processes of a distributed run must call it alike.

        Raises:
            ValueError: no scene; what the backbone refuses.
        """
        if not batches:
            raise ValueError("a training step needs at least one scene")
        stage = self.config.stage(step)
        self.network.train_only(self.config.stages.trained_groups(stage))
        bilevel = stage is Stage.BILEVEL
        scenes = [_SceneStep(self, batch) for batch in batches]
        with _Stopwatch() as predicting:
            for scene in scenes:
                scene.predict(with_prior=bilevel)
        with torch.autocast(scenes[0].batch.context.device.type, enabled=False):
            seconds = {"seconds_predict": predicting.seconds}
            if bilevel:
                with _Stopwatch() as optimising:
                    self._optimise([scene for scene in scenes if scene.sound], self.config.seed + step)
                seconds["seconds_tto"] = optimising.seconds
            with _Stopwatch() as rendering:
                for scene in scenes:
                    if scene.sound:
                        scene.compare()
            seconds["seconds_render"] = rendering.seconds
        reports = [scene.report for scene in scenes]
        sound = [report for report in reports if report.skipped is None]
        scalars = {
            "bilevel": float(bilevel),
            **mean_scalars(sound),
            **(prior_quantiles(sound) if bilevel else {}),
            **seconds,
        }
        total = self._total(scenes)
        for scene in scenes:
            scene.forget_tensors()
        return StepOutput(total, stage, step, scalars, reports)

    @property
    def anchored(self) -> bool:
        """Whether the outer loss is taken at anchors along the optimisation (mode "metagrad")."""
        return self.config.tto.backward_mode == BackwardMode.METAGRAD

    def _optimise(self, scenes: list[_SceneStep], seed: int) -> None:
        """θ* of all scenes in one call, so that they share D."""
        if not scenes:
            if self.training:
                # Other processes may have scenes, and wait here for this one.
                average = self.tto.curvature_scale.average
                self.tto.curvature_scale.update(average.new_zeros(0, len(GROUPS)))
            return
        inputs = [scene.gated_for_solve() for scene in scenes]
        contexts = [scene.context for scene in scenes]
        losses = [scene.anchor_loss for scene in scenes] if self.anchored else None
        results, solutions = self.tto(
            [g for g, _ in inputs], [prior for _, prior in inputs], contexts, outer_loss=losses, seed=seed
        )
        for scene, result, solution in zip(scenes, results, solutions.scenes, strict=True):
            scene.finish(result, solution)

    def _total(self, scenes: list[_SceneStep]) -> dict[str, Float[Tensor, ""]]:
        """Sum over sound scenes of each term, over the number of all scenes and of accumulated steps."""
        share = 1.0 / (len(scenes) * self.config.gradient_accumulation)
        total: dict[str, Tensor] = {}
        for scene in scenes:
            if scene.sound:
                for name, term in scene.terms.items():
                    total[name] = total[name] + share * term if name in total else share * term
        return total or {"outer_mse": self._nothing()}

    def _nothing(self) -> Float[Tensor, ""]:
        """A zero that can be differentiated and leaves every parameter's gradient None."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return torch.zeros((), requires_grad=True)
        # The reduction of gradients only begins where some parameter takes part.
        trained = next(parameter for parameter in self.network.parameters() if parameter.requires_grad)
        return 0.0 * trained.sum()

    def draw(self, gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "V H W 3"]:
        """Images by the renderer of test-time optimisation; differentiable."""
        config = self.config.tto
        background = None if config.background is None else gaussians.means.new_tensor(config.background)
        return render(
            gaussians,
            cameras,
            preset=config.preset,
            background=background,
            antialiased=config.antialiased,
            backend=config.backend,
        ).rgb


class _SceneStep:
    """One scene on its way through a step."""

    def __init__(self, module: TrainingModule, batch: SceneBatch) -> None:
        self.module = module
        self.batch = batch
        self.report = SceneReport(batch.name)
        self.terms: dict[str, Tensor] = {}
        self.context = batch.context
        self.coarse: list[Gaussians] = []
        self.start: Gaussians | None = None
        self.prior: dict[str, Tensor] | None = None
        self.result: Gaussians | None = None
        self.anchors: Tensor | None = None
        """Mean of the outer loss over the anchors of mode "metagrad"."""

    @property
    def sound(self) -> bool:
        return self.report.skipped is None

    def skip(self, reason: str) -> None:
        """Leave the scene out of this step."""
        if self.sound:
            self.report.skipped = reason
            logger.warning("scene %s takes no part in this step: %s", self.batch.name, reason)

    def predict(self, with_prior: bool) -> None:
        """θ⁰ and λ, behind a gate that only sound gradients pass."""
        output = self.module.network(self.batch.context, with_prior)
        self.context = output.prediction.as_seen(self.batch.context)
        fault = unusable(output, self.context.cameras)
        if fault is not None:
            self.skip(fault)
            return
        prior = output.prior or {}
        scenes = [output.gaussians, *output.prediction.coarse]
        gated = gate([leaf for scene in scenes for leaf in scene.leaves()] + list(prior.values()), self.passes)
        self.start, *self.coarse = (
            Gaussians(*gated[first : first + len(GROUPS)]) for first in range(0, len(scenes) * len(GROUPS), len(GROUPS))
        )
        self.prior = dict(zip(prior, gated[len(scenes) * len(GROUPS) :], strict=True)) if with_prior else None
        self.report.prior = {name: leaf.detach() for name, leaf in prior.items()} if with_prior else None
        self.report.scalars["num_gaussians"] = float(self.start.num_gaussians)

    def gated_for_solve(self) -> tuple[Gaussians, dict[str, Tensor]]:
        """θ⁰ and λ as they enter the layer, behind a gate at which the solve has ended."""
        assert self.start is not None
        assert self.prior is not None
        gated = gate([*self.start.leaves(), *self.prior.values()], self.solve_ends)
        return Gaussians(*gated[: len(GROUPS)]), dict(zip(self.prior, gated[len(GROUPS) :], strict=True))

    def finish(self, result: Gaussians, solution: object) -> None:
        """Take the layer's result, or leave the scene out if it diverged."""
        self.report.solution = solution  # pyright: ignore[reportAttributeAccessIssue]
        assert self.report.solution is not None
        self.report.scalars |= solution_scalars(self.report.solution)
        scale = self.report.solution.curvature_scale or {}
        self.report.scalars |= {f"curvature_scale_{name}": value for name, value in scale.items()}
        self.anchors, self.report.solution.anchor_loss = self.report.solution.anchor_loss, None
        if self.anchors is not None:
            (self.anchors,) = gate([self.anchors], self.solve_begins)
        if self.report.solution.status is TTOStatus.DIVERGED:
            self.skip(self.report.solution.warnings[0])
            return
        self.result = Gaussians(*gate(result.leaves(), self.solve_begins))

    def anchor_loss(self, gaussians: Gaussians) -> Float[Tensor, ""]:
        """The outer loss at an anchor of mode "metagrad"."""
        settings = self.module.config.tto.backward.metagrad
        views = self.batch.targets if settings.anchor_views == "target" else self.batch.context
        return sum_of(self.module.outer_loss(self.module.draw(gaussians, views.cameras), views.images))

    def compare(self) -> None:
        """Losses of θ⁰ and θ* on the target views."""
        assert self.start is not None
        anchors, self.anchors = self.anchors, None
        weight = 1.0 if self.result is None else self.module.config.losses.auxiliary_weight
        if anchors is not None:
            weight = self.module.config.tto.backward.metagrad.zero_shot_weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0.0):
            before = self._losses(self.start, "before")
        if self.result is None:
            self.terms = {f"outer_{name}": term for name, term in before.items()}
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and anchors is None):
                after = self._losses(self.result, "after")
            self.report.scalars["psnr_gain"] = self.report.scalars["psnr_after"] - self.report.scalars["psnr_before"]
            if anchors is None:
                self.terms = {f"outer_{name}": term for name, term in after.items()}
            else:
                self.terms = {"outer_anchors": (1.0 - weight) * anchors}
            if weight > 0.0:
                self.terms |= {f"auxiliary_{name}": weight * term for name, term in before.items()}
        if weight > 0.0:
            self._compare_coarse(weight)
        if not all(math.isfinite(float(term.detach())) for term in self.terms.values()):
            self.skip("the outer loss is not finite")

    def _compare_coarse(self, weight: float) -> None:
        """Losses of rougher estimates, each counting less than the next finer one."""
        targets = self.batch.targets
        for level, gaussians in enumerate(reversed(self.coarse), 1):
            terms = self.module.outer_loss(self.module.draw(gaussians, targets.cameras), targets.images)
            share = weight * COARSE_WEIGHT**level
            self.terms |= {f"coarse{level}_{name}": share * term for name, term in terms.items()}

    def _losses(self, gaussians: Gaussians, when: str) -> dict[str, Tensor]:
        targets = self.batch.targets
        images = self.module.draw(gaussians, targets.cameras)
        terms = self.module.outer_loss(images, targets.images)
        self.report.scalars[f"outer_{when}"] = sum(float(term.detach()) for term in terms.values())
        error = (images.detach().clamp(0, 1) - targets.images).square().flatten(1).mean(1)
        self.report.scalars[f"psnr_{when}"] = float(-10.0 * error.double().clamp_min(1e-12).log10().mean())
        return terms

    def forget_tensors(self) -> None:
        """Drop what has a graph: the gates in that graph hold this object, and such a cycle is never freed."""
        self.start = self.prior = self.result = self.anchors = None
        self.coarse = []
        self.terms = {}

    def solve_begins(self, gradients: Gradients) -> bool:
        """Backward has reached θ*."""
        self.report.solve_began = time.perf_counter()
        return True

    def solve_ends(self, gradients: Gradients) -> bool:
        """Backward has come out of the layer."""
        if self.report.solve_began is not None:
            self.report.solve_seconds = time.perf_counter() - self.report.solve_began
        return True

    def passes(self, gradients: Gradients) -> bool:
        """Whether the scene's gradient may reach the network."""
        if self.module.grad_scaler and not all_finite(gradients):
            return True
        backward = None if self.report.solution is None else self.report.solution.backward
        if backward is not None and backward.status == PCGStatus.BREAKDOWN.value:
            self.skip(backward.warnings[-1] if backward.warnings else "the implicit solve broke down")
        elif not all_finite(gradients):
            self.skip("the gradient of the outer loss with respect to the network's output is not finite")
        return self.sound


def sum_of(terms: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """All terms of a loss together."""
    return torch.stack(list(terms.values())).sum()


COARSE_WEIGHT = 0.9
"""Of the loss of a network's earlier estimate, in units of that of the next one (DepthSplat's own)."""
LARGEST_LOG_SCALE = 40.0
"""Standard deviations of e**40 have squares that just fit into float32."""


def unusable(output: NetworkOutput, cameras: Cameras) -> str | None:
    """Why a prediction cannot be rendered or, where it comes with λ, be optimised on these cameras; None if it can."""
    if output.gaussians.num_gaussians == 0:
        return "the network predicts no Gaussian"
    try:
        output.gaussians.check_finite("the prediction")
        if float(output.gaussians.scales.detach().max()) > LARGEST_LOG_SCALE:
            return "a predicted Gaussian is so large that float32 cannot hold its covariance"
        for name, leaf in (output.prior or {}).items():
            if not bool(((leaf > 0) & leaf.isfinite()).all()):
                return f"the predicted λ of {name} is not finite and positive"
        if output.prior is not None:
            normalized_frame(output.gaussians, cameras)  # finds the cameras that see nothing
    except ValueError as error:
        return str(error)
    return None


class _Stopwatch:
    """Seconds that pass in a `with` block."""

    seconds = 0.0

    def __enter__(self) -> _Stopwatch:
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
