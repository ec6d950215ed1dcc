# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's convolutional encoder: three maps at 1/2, at 1/2 or 1/4, and at 1/4 or 1/8 of the resolution."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu


class ConvolutionalEncoder(nn.Module):
    """Residual blocks with instance norms."""

    def __init__(self, lowest: int) -> None:
        """`lowest`: the last map is at 1/lowest of the resolution, 4 or 8."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.InstanceNorm2d(64)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 96, 1 if lowest == 4 else 2)
        self.layer3 = _stage(96, 128, 2)
        self.conv2 = nn.Conv2d(128, 128, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, images: Float[Tensor, "V 3 H W"]
    ) -> tuple[Float[Tensor, "V 64 h0 w0"], Float[Tensor, "V 96 h1 w1"], Float[Tensor, "V 128 h2 w2"]]:
        """Maps from fine to coarse."""
        first = self.layer1(relu(self.norm1(self.conv1(images))))
        second = self.layer2(first)
        return first, second, self.conv2(self.layer3(second))


def _stage(incoming: int, outgoing: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(incoming, outgoing, stride), ResidualBlock(outgoing, outgoing, 1))


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, which is a convolution where size or width change."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.InstanceNorm2d(outgoing), nn.InstanceNorm2d(outgoing)
        self.downsample = None
        if stride != 1 or incoming != outgoing:
            shortcut = nn.Conv2d(incoming, outgoing, 1, stride=stride)
            self.downsample = nn.Sequential(shortcut, nn.InstanceNorm2d(outgoing))

    def forward(self, x: Float[Tensor, "V C H W"]) -> Float[Tensor, "V D h w"]:
        """See the class."""
        refined = relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))
        return relu(refined + (x if self.downsample is None else self.downsample(x)))
