# SPDX-License-Identifier: Apache-2.0
"""What nerfstudio 1.1.5 needs to run with today's torch and without a GPU."""

from __future__ import annotations

import torch

from . import extension


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let `torch.load(weights_only=True)`, the default from torch 2.6, read what nerfstudio's own schedulers store.

    They compute with numpy, so a learning rate in their state is a numpy scalar. Ours are Python floats; this is for
    runs whose user has chosen a scheduler of nerfstudio's. Nothing that could run code becomes loadable.
    """
    add_safe_globals = getattr(torch.serialization, "add_safe_globals", None)
    if add_safe_globals is None:  # torch < 2.4 has no allow-list, and no such default
        return
    import numpy as np

    scalar = np.float64(0.0).__reduce__()[0]  # numpy.core.multiarray.scalar, whatever this numpy calls it
    add_safe_globals([scalar, np.dtype, type(np.dtype("float64"))])


def can_draw_on(device_type: str) -> bool:
    """Whether this installation's renderer draws on devices of that type, and the machine has one."""
    if device_type not in extension.device_types():
        return False
    return device_type != "cuda" or torch.cuda.is_available()


def resolve_device_type(requested: str) -> str:
    """`requested`, with "auto" replaced by "cuda" where it can be used and by "cpu" elsewhere.

    Raises:
        ValueError: a device that was asked for by name and is not there, or on which this installation cannot draw.
    """
    if requested == "auto":
        return "cuda" if can_draw_on("cuda") else "cpu"
    if can_draw_on(requested):
        return requested
    if requested != "cuda":
        reason = 'ns-diff3r runs on "cuda" and "cpu"'
    elif not torch.cuda.is_available():
        reason = "torch finds no CUDA device"
    else:
        reason = "this installation of ns-diff3r has no CUDA kernels"
    raise ValueError(f'--machine.device-type {requested}: {reason}; "auto" takes what there is')


def usable_device(device: torch.device | str) -> torch.device:
    """`device`, or the CPU where the renderer cannot draw on it.

    ns-eval, ns-viewer, ns-render and ns-export always take CUDA when torch sees it.
    """
    device = torch.device(device)
    return device if can_draw_on(device.type) else torch.device("cpu")
