# SPDX-License-Identifier: Apache-2.0
"""Preconditioned conjugate gradients wholly on the device.

The iterations of `pcg`, with every scalar in device memory: the host launches a few iterations at a time (as one graph
that is repeated) and then looks at the state. Iterations behind the end of the solve change nothing, so the result does
not depend on how often it looks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..cuda_launch import current_stream, module_for, suffix_for
from ..rasterization.cuda import CudaLinearization
from .image_operators import SsimCurvature
from .native import address
from .normal_operator import NormalOperator
from .preconditioners import BlockJacobi, Identity, Jacobi, Preconditioner

if TYPE_CHECKING:
    from .pcg import PCGConfig, PCGResult

CHECK_EVERY = 8
"""Iterations that are launched before the host looks at the state, which it has to wait for."""


def applies(operator: object, preconditioner: Preconditioner | None, initial: Tensor | None) -> bool:
    """Whether this solve can be made on the device: our kernels, a known W and M, no start vector."""
    if isinstance(preconditioner, BlockJacobi):
        known = preconditioner.dense is not None
    else:
        known = preconditioner is None or isinstance(preconditioner, (Identity, Jacobi))
    return (
        isinstance(operator, NormalOperator)
        and isinstance(operator.linearization, CudaLinearization)
        and isinstance(operator.weights, (Tensor, SsimCurvature))
        and known
        and initial is None
    )


@torch.no_grad()
def cuda_pcg(
    operator: NormalOperator, rhs: Float[Tensor, " P"], config: PCGConfig, preconditioner: Preconditioner | None = None
) -> PCGResult:
    """Solve A u = b as `pcg.pcg` does. Frozen rows of `rhs` must be 0.

    Args:
        operator: A over a `CudaLinearization`.
        rhs: b.
        config: tolerance and caps.
        preconditioner: M⁻¹; None for the identity.

    Raises:
        TypeError: W or M is of another kind; see `applies`.
    """
    from .pcg import PCGResult, PCGStatus

    if not applies(operator, preconditioner, None):
        raise TypeError("this operator or preconditioner has no device solve; use pcg.pcg")
    lin, device, count = operator.linearization, rhs.device, rhs.numel()
    assert isinstance(lin, CudaLinearization)
    module, suffix = module_for(device), suffix_for(rhs.dtype, device)
    rhs = rhs.contiguous()
    vectors = {name: torch.empty_like(rhs) for name in ("x", "r", "z", "p", "q")}
    state = torch.empty(module.state_bytes, dtype=torch.uint8, device=device)
    history = torch.empty(config.max_iterations + 1, dtype=torch.float64, device=device)
    tensors: dict[str, Tensor] = {"b": rhs, **vectors, **_curvature(operator)}
    if operator.strength is not None:
        tensors["strength"] = operator.strength
    if isinstance(preconditioner, Jacobi):
        tensors["inverse"] = preconditioner.inverse
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    at = {name: tensor.data_ptr() for name, tensor in held.items()}
    at |= {"state": state.data_ptr(), "history": history.data_ptr(), **lin.product_workspaces()}
    ranges = [(s.start, s.stop, 0.0, name in operator.frozen) for name, s in operator.slices.items()]
    inverses = preconditioner.dense or [] if isinstance(preconditioner, BlockJacobi) else []
    blocks = [(address(inverse, inverse), inverse.shape[0], inner, rows) for inverse, rows, inner in inverses]
    scale = 1.0 / operator.num_residuals
    solve = getattr(module, "solve" + suffix)(lin.compiled_plan, count, scale, ranges, blocks, at)
    partial = torch.empty(solve.num_partials, dtype=torch.float64, device=device)
    solve.set_partial(partial.data_ptr())

    status, iterations, done = 0, 0, 0
    with lin.exclusive(), current_stream(device) as stream:
        solve.begin(config.tolerance, stream)
        while status == 0 and done < config.max_iterations:
            ahead = min(CHECK_EVERY, config.max_iterations - done)
            refresh = False
            if config.refresh_every:
                until = config.refresh_every - done % config.refresh_every
                ahead, refresh = min(ahead, until), until <= ahead
            solve.iterate(ahead, refresh, stream)
            done += ahead
            status, iterations = module.read_state(state.cpu().numpy().tobytes())
    values = history[: iterations + 1].tolist()
    kind = (PCGStatus.MAX_ITERATIONS, PCGStatus.CONVERGED, PCGStatus.BREAKDOWN, PCGStatus.ZERO_RHS)[status]
    residual = math.nan if kind is PCGStatus.BREAKDOWN and values[0] != 1.0 else values[-1]
    return PCGResult(vectors["x"], kind, iterations, residual, values)


def _curvature(operator: NormalOperator) -> dict[str, Tensor]:
    """W by the names of csrc/cuda/solver.h's SolveProblem."""
    weights = operator.weights
    if isinstance(weights, Tensor):
        return {"weights": weights}
    assert isinstance(weights, SsimCurvature)
    ssim = weights.ssim
    a, b, c = ssim.partials
    named = {"weights": weights.pixel, "window": weights.window, "rendered": ssim.rendered}
    named |= {"photograph": ssim.target.image, "partial_mean": a, "partial_square": b, "partial_product": c}
    return named | {name: torch.empty_like(weights.pixel) for name in ("image", "change")}
