# SPDX-License-Identifier: Apache-2.0
"""A network small enough for tests, and batches of generated scenes for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ns_diff3r import Cameras, Gaussians, Views, render
from ns_diff3r.backbones import Backbone, BackboneConfig, Prediction
from ns_diff3r.data.batches import SceneBatch
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.solver import PCGConfig
from ns_diff3r.training.config import GroupOptimizer, LossConfig, TrainingConfig, few_step_tto
from ns_diff3r.training.network import Diff3RNetwork
from ns_diff3r.training.stages import StageConfig

FEATURES = 6


@dataclass
class ToyConfig(BackboneConfig):
    _target: type[Backbone] = field(default_factory=lambda: ToyBackbone)
    sh_degree: int = 0
    dropout: float = 0.0


class ToyBackbone(Backbone):
    """One Gaussian per pixel of every view, at a depth between 2 and 5, nearly its pixel's size and colour."""

    uses_points = True

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.feature_dim, self.sh_degree = FEATURES, config.sh_degree
        self.trunk = nn.Conv2d(3, FEATURES, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Conv2d(FEATURES, 12, 1)

    def gaussian_head_parameters(self) -> Iterator[nn.Parameter]:
        return self.head.parameters()

    def forward(self, context: Views) -> Prediction:
        images = context.images.movedim(-1, 1)
        features = torch.tanh(self.trunk(images))
        raw = self.head(self.dropout(features)).movedim(1, -1)  # [V, H, W, 12]
        cameras = context.cameras
        depth = 3.5 + 0.5 * torch.tanh(raw[..., :1])
        means = unproject(cameras, depth)
        focal = cameras.Ks[:, None, None, 0, 0, None]
        scales = (0.5 * depth / focal).log() + 0.1 * raw[..., 1:4]
        quats = raw.new_tensor([1.0, 0.0, 0.0, 0.0]) + 0.1 * raw[..., 4:8]
        colors = (context.images - 0.5) / 0.28209479177387814 + 0.1 * raw[..., 8:11]
        count = depth.numel()
        gaussians = Gaussians(
            means=means.reshape(count, 3),
            quats=quats.reshape(count, 4),
            scales=scales.reshape(count, 3),
            opacities=raw[..., 11].reshape(count),
            sh0=colors.reshape(count, 1, 3),
            shN=raw.new_zeros(count, (self.sh_degree + 1) ** 2 - 1, 3),
        )
        grid = (context.num_views, cameras.height, cameras.width)
        return Prediction(gaussians, features.movedim(1, -1).reshape(count, FEATURES), grid)


def unproject(cameras: Cameras, depth: Tensor) -> Tensor:
    """[V, H, W, 3] world points at depths [V, H, W, 1] of the pixels' centres."""
    rows, columns = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).to(depth)
    rays = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.Ks), pixels)
    local = rays * depth - cameras.viewmats[:, None, None, :3, 3]
    return torch.einsum("vji,vhwj->vhwi", cameras.viewmats[:, :3, :3], local)


class ToyHead(nn.Module):
    """λ = 10 ** (a linear function of the features), one per Gaussian and group."""

    GROUPS = ("means", "quats", "scales", "opacities", "sh0", "shN")

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, len(self.GROUPS))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        values = 10.0 ** (0.1 * self.linear(features))
        return {name: values[:, i : i + 1] for i, name in enumerate(self.GROUPS)}


def make_network(seed: int = 0) -> Diff3RNetwork:
    torch.manual_seed(seed)
    return Diff3RNetwork(ToyBackbone(ToyConfig()), ToyHead())


def make_batch(seed: int = 0, size: int = 12, num_context: int = 2, num_targets: int = 2) -> SceneBatch:
    """Views of a generated scene: context at the ends and between, targets the others."""
    scene, cameras = pixel_aligned_scene(
        size, contributions_per_pixel=15.0, num_views=num_context + num_targets, seed=seed
    )
    with torch.no_grad():
        images = render(scene, cameras).rgb.clamp(0, 1)
    depths = torch.tensor([1.5, 6.0])
    count = len(images)
    views = Views(images, cameras, depths[0].expand(count), depths[1].expand(count))
    context = torch.linspace(0, count - 1, num_context).round().long()
    targets = torch.tensor([i for i in range(count) if i not in context.tolist()])
    return SceneBatch(f"generated-{seed}", views[context], views[targets])


def make_config(
    pretrain_steps: int = 0,
    num_steps: int = 10,
    inner_steps: int = 3,
    freeze_backbone: bool = True,
    **changes: object,
) -> TrainingConfig:
    rates = GroupOptimizer(pretrain_rate=1e-2, bilevel_rate=1e-2)
    settings: dict[str, object] = {
        "num_steps": num_steps,
        "stages": StageConfig(pretrain_steps=pretrain_steps, freeze_backbone=freeze_backbone),
        "losses": LossConfig(lpips="off"),
        "tto": replace(few_step_tto(), num_steps=inner_steps, pcg=PCGConfig(max_iterations=30)),
        "backbone": rates,
        "gaussian_head": rates,
        "uncertainty_head": rates,
    }
    return TrainingConfig(**{**settings, **changes})  # pyright: ignore[reportArgumentType]


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def batches(seeds: Sequence[int]) -> list[SceneBatch]:
    return [make_batch(seed) for seed in seeds]
