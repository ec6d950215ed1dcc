# SPDX-License-Identifier: Apache-2.0
"""Settings of training, shared by `ns-diff3r fit` and the nerfstudio face so that both take the same steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..dataclass_state import DefaultsForMissingFields
from ..solver import BackwardMode, LearningRates, PCGConfig, TTOConfig
from .stages import Stage, StageConfig


@dataclass(frozen=True)
class LossConfig(DefaultsForMissingFields):
    """The outer loss L_out(θ*) + α L_out(θ⁰) on the target views, L_out = photometric + lpips_weight · LPIPS."""

    photometric: Literal["mse", "log_mse"] = "mse"
    """Photometric term: "mse" as published, in which scenes that are hard to predict outweigh all others, or "log_mse",
    the logarithm of each view's MSE (so its PSNR), scaled to weigh as much as "mse" does at 20 dB: each view counts
    alike."""
    lpips: Literal["auto", "on", "off"] = "auto"
    """LPIPS term: "auto" where the package and its VGG weights are found (printed), "on" demands them, "off"."""
    lpips_weight: float = 0.05
    """Weight of the LPIPS term."""
    auxiliary_weight: float = 0.1
    """α: weight of the loss of the initialisation θ⁰ in the second stage."""
    vgg_weights: Path | None = None
    """File with torchvision's VGG16 weights (vgg16-397923af.pth); default: where torch.hub keeps it."""

    def __post_init__(self) -> None:
        if self.photometric not in ("mse", "log_mse"):
            raise ValueError(f'LossConfig.photometric must be "mse" or "log_mse", not {self.photometric!r}')
        if self.lpips not in ("auto", "on", "off"):
            raise ValueError(f'LossConfig.lpips must be "auto", "on" or "off", not {self.lpips!r}')
        for name in ("lpips_weight", "auxiliary_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"LossConfig.{name} must be finite and not negative, not {getattr(self, name)}")


@dataclass(frozen=True)
class GroupOptimizer(DefaultsForMissingFields):
    """AdamW of one parameter group. Its learning rate rises and falls once in each stage."""

    pretrain_rate: float = 5e-4
    """Peak learning rate of the first stage."""
    bilevel_rate: float = 2e-5
    """Peak learning rate of the second stage."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    max_norm: float | None = 1.0
    """Largest norm of the group's gradient; longer ones are shortened. None: any."""
    bilevel_clip_quantile: float | None = None
    """In the second stage, shorten gradients beyond this quantile of the norms of the last 200 steps, too. The gradient
    of an optimisation has heavy tails: the few largest would fill AdamW's second moment, and nothing would be learned
    for long. None: only `max_norm`."""

    def __post_init__(self) -> None:
        quantile = self.bilevel_clip_quantile
        if quantile is not None and not 0.0 < quantile <= 1.0:
            raise ValueError(f"GroupOptimizer.bilevel_clip_quantile must lie in (0, 1], not {quantile}")

    def rate(self, stage: Stage) -> float:
        """Peak learning rate of a stage."""
        return self.pretrain_rate if stage is Stage.PRETRAIN else self.bilevel_rate

    def clip_quantile(self, stage: Stage) -> float | None:
        """Quantile of earlier norms to which gradients are shortened in a stage."""
        return None if stage is Stage.PRETRAIN else self.bilevel_clip_quantile

    @property
    def base_rate(self) -> float:
        """The learning rate that factors of the schedule multiply: the larger of the two peaks."""
        return max(self.pretrain_rate, self.bilevel_rate)


def few_step_tto() -> TTOConfig:
    """Test-time optimisation of some fifty steps.

    gsplat's learning rates, but for opacities and colours, which have a sixteenth: multiplied for so few steps they
    overshoot, and the gradient of an optimisation that does is of no use (docs/training_data.md). Twenty iterations of
    the implicit solve train as well as two hundred, in a fifth of the time.
    """
    gsplat = LearningRates()
    rates = replace(gsplat, opacities=gsplat.opacities / 16, sh0=gsplat.sh0 / 16, shN=gsplat.shN / 16)
    return TTOConfig(learning_rates=rates, pcg=PCGConfig(max_iterations=20))


@dataclass(frozen=True)
class TrainingConfig(DefaultsForMissingFields):
    """Everything a training step depends on beside the network and the data."""

    num_steps: int = 20_000
    """Training steps, both stages together."""
    stages: StageConfig = field(default_factory=StageConfig)
    """When the second stage begins and what it trains."""
    losses: LossConfig = field(default_factory=LossConfig)
    """The outer loss."""
    tto: TTOConfig = field(default_factory=few_step_tto)
    """Test-time optimisation and its backward pass."""
    tto_rate_factor: float = 8.0
    """Multiplies the learning rates of test-time optimisation, which are meant for thousands of steps."""
    tto_steps_eval: int | None = None
    """Steps of test-time optimisation in evaluation, viewer and export; None: as in training."""
    tto_scale_eval: Literal["training", "scene"] = "training"
    """D of test-time optimisation in evaluation, viewer and export: the average of training, or measured on each scene,
    which suits other numbers of views and sizes than those of training."""
    backbone: GroupOptimizer = field(default_factory=GroupOptimizer)
    """Optimiser of the backbone proper, but for its trunk."""
    trunk: GroupOptimizer = field(default_factory=lambda: GroupOptimizer(pretrain_rate=5e-6, bilevel_rate=2e-7))
    """Optimiser of the pretrained image encoder within the backbone, where it has one (DINOv2 in DepthSplat and Depth
    Anything 3); a hundredth of the backbone's learning rates, as DepthSplat's official recipe has it."""
    gaussian_head: GroupOptimizer = field(default_factory=lambda: GroupOptimizer(bilevel_clip_quantile=0.25))
    """Optimiser of the part of the backbone that turns features into Gaussians."""
    uncertainty_head: GroupOptimizer = field(
        default_factory=lambda: GroupOptimizer(bilevel_rate=2e-3, bilevel_clip_quantile=0.25)
    )
    """Optimiser of the head that predicts λ; the first stage does not train it."""
    warmup_fraction: float = 0.02
    """Share of a stage in which learning rates rise."""
    final_fraction: float = 0.05
    """Learning rates at the end of a stage, as a fraction of the peak."""
    gradient_accumulation: int = 1
    """Steps whose gradients are averaged into one update."""
    seed: int = 0
    """Seed of the network's weights."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"TrainingConfig.num_steps must be at least 1, not {self.num_steps}")
        if self.gradient_accumulation < 1:
            raise ValueError(
                f"TrainingConfig.gradient_accumulation must be at least 1, not {self.gradient_accumulation}"
            )
        if not self.tto_rate_factor > 0.0:
            raise ValueError(f"TrainingConfig.tto_rate_factor must be positive, not {self.tto_rate_factor}")
        if self.tto.pcg.warm_start:
            raise ValueError(
                "TrainingConfig.tto.pcg.warm_start: every training step has other views, so no solution of an earlier "
                "step fits, and a run that is continued would differ from one that was not interrupted"
            )
        if self.tto_steps_eval is not None and self.tto_steps_eval < 0:
            raise ValueError(f"TrainingConfig.tto_steps_eval must not be negative, not {self.tto_steps_eval}")
        if self.tto_scale_eval not in ("training", "scene"):
            raise ValueError(f"TrainingConfig.tto_scale_eval must be training or scene, not {self.tto_scale_eval!r}")
        for name in ("warmup_fraction", "final_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"TrainingConfig.{name} must lie in [0, 1], not {getattr(self, name)}")

    def stage(self, step: int) -> Stage:
        """The stage of a step."""
        return self.stages.stage(step, self.num_steps)

    def layer_config(self) -> TTOConfig:
        """Settings of `DifferentiableTTO` in training: `tto` with its learning rates multiplied."""
        rates = {name: self.tto_rate_factor * rate for name, rate in asdict(self.tto.learning_rates).items()}
        return replace(self.tto, learning_rates=LearningRates(**rates))

    def evaluation_config(self, num_steps: int | None = None) -> TTOConfig:
        """The same for evaluation, with `num_steps` steps, or as many as `tto_steps_eval` or training says."""
        chosen = self.tto_steps_eval if num_steps is None else num_steps
        config = self.layer_config()
        if config.backward_mode == BackwardMode.METAGRAD:  # whose anchors would ask for a least number of steps
            config = replace(config, backward_mode=BackwardMode.NONE)
        return config if chosen is None else replace(config, num_steps=chosen)
