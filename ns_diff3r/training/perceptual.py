# SPDX-License-Identifier: Apache-2.0
"""LPIPS with VGG16 features, by the package `lpips`; finding the VGG weights that no package brings."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

VGG_FILE = "vgg16-397923af.pth"
"""torchvision's ImageNet weights; the digits are the beginning of the file's sha256."""
VGG_VARIABLE = "NS_DIFF3R_VGG_WEIGHTS"
VGG_ADDRESS = f"https://download.pytorch.org/models/{VGG_FILE}"
SMALLEST_SIZE = 16
"""Pixels on a side below which VGG's poolings leave nothing."""


class Lpips:
    """LPIPS (Zhang et al. 2018, version 0.1) of image pairs, differentiable in the first.

    Not a module, so that its weights enter no checkpoint; it follows the device of the images.
    """

    def __init__(self, vgg_state: dict[str, Tensor] | None = None) -> None:
        """Weights of torchvision's `vgg16` (only `features.*` are read); None leaves random ones, for tests.

        Raises:
            ImportError: the package lpips is not installed.
            ValueError: `vgg_state` lacks a weight, or one has another shape.
        """
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by arguments that are deprecated
            # pnet_rand: no download of VGG; the linear layers on top come with the package.
            self.network: nn.Module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if vgg_state is not None:
            _load_features(self.network.net, vgg_state)  # pyright: ignore[reportArgumentType]
        self.network.eval().requires_grad_(False)

    def __call__(self, images: Float[Tensor, "V H W 3"], truth: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        """LPIPS per image, values in [0, 1] expected. ValueError for images smaller than 16 pixels on a side."""
        if min(images.shape[1:3]) < SMALLEST_SIZE:
            raise ValueError(
                f"LPIPS needs images of at least {SMALLEST_SIZE} pixels on a side, got {list(images.shape[1:3])}"
            )
        weight = next(self.network.parameters())
        if weight.device != images.device:
            self.network.to(images.device)
        first, second = (stack.movedim(-1, 1).to(weight.dtype) for stack in (images, truth))
        return self.network(first, second, normalize=True).flatten()


def _load_features(net: nn.Module, vgg_state: dict[str, Tensor]) -> None:
    """Copy `features.<i>.weight` into the slices of lpips's VGG, whose layers keep torchvision's numbers."""
    own = net.state_dict()
    loaded = {}
    for name, value in own.items():
        match = re.fullmatch(r"slice\d+\.(\d+\.(?:weight|bias))", name)
        source = f"features.{match.group(1)}" if match else name
        if source not in vgg_state:
            raise ValueError(f"the VGG16 weights lack {source}")
        if vgg_state[source].shape != value.shape:
            raise ValueError(f"VGG16's {source} is {list(vgg_state[source].shape)}, not {list(value.shape)}")
        loaded[name] = vgg_state[source]
    net.load_state_dict(loaded)


def find_vgg_weights(path: Path | None = None) -> Path | None:
    """The file of VGG16 weights: `path`, else $NS_DIFF3R_VGG_WEIGHTS, else torch.hub's cache ($TORCH_HOME).

    None if it is nowhere. FileNotFoundError if one of the first two is named and does not exist.
    """
    named = path if path is not None else os.environ.get(VGG_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"{named}: no such file of VGG16 weights")
        return Path(named)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    return cached if cached.is_file() else None


def find_lpips(path: Path | None = None, required: bool = False) -> tuple[Lpips | None, str]:
    """(LPIPS or None, one line that says which weights it has, or why there is none).

    Raises:
        ImportError, FileNotFoundError: it is `required` and the package, or the weights, are not there; also for
            a `path` that does not exist.
        ValueError: the file does not hold VGG16's weights.
    """
    weights = find_vgg_weights(path)
    try:
        import lpips  # noqa: F401
    except ImportError as error:
        if required:
            raise ImportError("LPIPS needs the package lpips: pip install 'ns-diff3r[nerfstudio]'") from error
        return None, "LPIPS left out: the package lpips is not installed"
    if weights is None:
        missing = (
            f"no VGG16 weights: put {VGG_ADDRESS} into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
            f"or name the file in ${VGG_VARIABLE}"
        )
        if required:
            raise FileNotFoundError(f"LPIPS was asked for, but there are {missing}")
        return None, f"LPIPS left out: {missing}"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    known = digest.startswith(VGG_FILE.removesuffix(".pth").split("-")[1])
    state = torch.load(weights, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"{weights}: not a state dict of VGG16")
    try:
        metric = Lpips(state)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    return metric, f"VGG16 from {weights}, sha256 {digest} ({'torchvision’s' if known else 'NOT torchvision’s'})"
