# SPDX-License-Identifier: Apache-2.0
"""The option --device of commands that run networks and the renderer."""

from __future__ import annotations

from typing import Literal

DeviceChoice = Literal["auto", "cpu", "cuda"]


def chosen_device(choice: DeviceChoice) -> str:
    """ "cpu" or "cuda"; auto is CUDA where torch finds a device and our kernels were built for it.

    Raises:
        ValueError: CUDA is demanded and cannot be had; says why.
    """
    import torch

    from .. import extension

    usable = "cuda" in extension.device_types() and torch.cuda.is_available()
    if choice == "cuda" and not usable:
        reason = "torch finds no CUDA device" if not torch.cuda.is_available() else "there are no CUDA kernels here"
        raise ValueError(f"--device cuda: {reason}; auto takes what there is")
    return "cuda" if choice != "cpu" and usable else "cpu"
