# SPDX-License-Identifier: Apache-2.0
"""Inner steps wholly on a CUDA device: one compiled call launches many, and nothing of a step needs an answer.

`run_trajectory` hands its run over where it can: one scene, all of its views in every step, Adam or SGD, a penalty that
has a kernel, and nobody who wants the linearisations. The result is the same to the last bit.

What the host would have to wait for in every step is written down on the device, a row a step. Lists have room for
more intersections than there were; a step that finds more is not taken, nothing behind it does anything, and the host,
which looks every few steps, makes room and goes on from there. Where somebody watches (an observer, a deadline, a
stationarity tolerance, a progress bar), it looks once a step, before the step is taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...cuda_launch import current_stream, usable
from ...rasterization.cuda import CudaLinearization
from ...rasterization.cuda_reserved import ReservedPlan
from ...splats import Gaussians
from .. import penalties
from ..native import address
from ..prior import Prior
from ..problem import Evaluation, InnerProblem, SceneProblem
from ..vector_ops import RangeStatistics
from .adam import Adam
from .protocol import InnerOptimizer, InnerState, parameter_ranges
from .sgd import SGD

LOOK_EVERY = 16
"""Steps that are launched before the host looks whether they could be taken, which it has to wait for."""
HEADROOM = 1.25
"""Room for intersections, as a multiple of the last number known."""
SPARE = 256
"""Room beyond that: in small scenes a few Gaussians that grow are many."""
RECORD_FROM = 12
"""Steps left from which a step is recorded as a CUDA graph, which costs about as much as launching a few; fewer are
launched kernel by kernel."""


class Row(NamedTuple):
    """What a step wrote down about the point where it began."""

    image_loss: float
    statistics: list[RangeStatistics]


def applies(problem: InnerProblem, optimizer: InnerOptimizer, start: Gaussians) -> bool:
    """Whether these steps can be taken on the device, if the problem's renderer is ours there."""
    return (
        usable(start.means)
        and isinstance(problem, SceneProblem)
        and type(optimizer) in (Adam, SGD)
        and penalties.kernel_number(problem.objective.loss.kind) is not None
    )


class DeviceRun:
    """The memory of a run, and its steps as launches on torch's current stream.

    The caller knows where θ is; `rows` and `step` are those of the last look.
    """

    def __init__(
        self,
        problem: SceneProblem,
        first: Evaluation,
        optimizer: Adam | SGD,
        state: InnerState,
        num_steps: int,
        prior: Prior | None,
        frozen: frozenset[str],
        first_step: int,
    ) -> None:
        """`first`: the problem evaluated at the start, whose views and number of intersections are taken."""
        assert isinstance(first.linearization, CudaLinearization)
        self._origin = first.linearization.cuda_plan
        self._module, self._device = self._origin.module, self._origin.device
        self._objective, self._optimizer, self._num_steps = problem.objective, optimizer, num_steps
        template = first.linearization.gaussians
        self._ranges = parameter_ranges(template, {}, frozen)
        self._like = torch.empty(template.num_parameters, dtype=template.dtype, device=self._device)
        self.gradient = torch.empty_like(self._like)
        self._columns = 2 + 2 * len(self._ranges)
        doubles = {"dtype": torch.float64, "device": self._device}
        self._written = torch.zeros(2 + (num_steps + 1) * self._columns, **doubles)
        self.rows: list[list[float]] = []
        self.step = 0
        self._halted = 0
        self._plan: ReservedPlan | None = None
        self._run: Any = None

        target, loss = problem.objective.target, problem.objective.loss
        images = ["rendered", "image_cotangent"]
        if problem.objective.ssim_target is not None:
            images += ["ssim", "partial_mean", "partial_square", "partial_product"]
        self._tensors: dict[str, Tensor | None] = {name: torch.empty_like(target) for name in images}
        self._tensors["photograph"] = target
        if problem.objective.ssim_target is not None:
            _, self._tensors["window_means"], self._tensors["window_variances"] = (
                problem.objective.ssim_target.statistics
            )
        rates = [
            [part.learning_rate for part in parameter_ranges(template, optimizer.rates(first_step + k), frozen)]
            for k in range(num_steps)
        ]
        self._rates = (*optimizer.betas, optimizer.epsilon) if isinstance(optimizer, Adam) else (0.0, 0.0, 0.0)
        rows = self._module.schedule_rows(rates, *self._rates[:2], state.get("step", 0) + 1)
        self._tensors["schedule"] = torch.from_numpy(rows).to(self._device)
        self._vectors = {"anchor": prior and prior.anchor, "strength": prior and prior.strength}
        if isinstance(optimizer, Adam):
            self._vectors |= {name: state[name] for name in ("first_moment", "second_moment")}
        weight, n = loss.ssim_weight, problem.objective.num_residuals
        number = penalties.kernel_number(loss.kind)
        assert number is not None
        self._loss = (number, loss.delta, (1.0 - weight) / n, -weight / n)
        self._make_room(self._origin.num_intersections)

    def _make_room(self, intersections: int) -> None:
        """Lists for so many intersections and some more, and the run over them."""
        self._plan = self._run = None  # their memory serves the larger ones
        room = int(HEADROOM * self._origin.possible(intersections)) + SPARE
        self._plan = plan = ReservedPlan(self._origin, room)
        at = {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in self._tensors.items()}
        at |= {name: address(vector, self._like) for name, vector in self._vectors.items()}
        at |= {"state": self._written.data_ptr()}
        at |= {"scan": plan.scan_work.data_ptr(), "slots": plan.slots.data_ptr()}
        self._run = getattr(self._module, "inner_run" + plan.suffix)(
            plan.plan,
            [tensor.data_ptr() for tensor in plan.list_work],
            plan.list_work[-1].numel(),
            plan.scan_work.numel(),
            self._loss,
            "adam" if isinstance(self._optimizer, Adam) else "sgd",
            [tuple(part) for part in self._ranges],
            self._rates,
            at,
        )
        self._recorded = False
        self._partial = torch.empty(self._run.num_partials, dtype=torch.float64, device=self._device)
        self._run.set_partial(self._partial.data_ptr())

    # --- steps ---

    def take_all(self, theta: list[Float[Tensor, " P"]]) -> None:
        """All steps and the measure at their end, or up to numbers that are none; θ_k is in theta[k % 3]."""
        places = [address(vector, self._like) for vector in theta]
        done = 0
        while True:
            ahead, record = min(LOOK_EVERY, self._num_steps - done), self._recording(done)
            with current_stream(self._device) as stream:
                self._run.take_steps(places, self.gradient.data_ptr(), record, done, ahead, stream)
                if done + ahead == self._num_steps:
                    self._run.measure(places[self._num_steps % 3], self.gradient.data_ptr(), stream)
            needed = self._look()
            done = self.step
            if needed:
                self._make_room(needed)
            elif self._halted or done == self._num_steps:
                return

    def _recording(self, done: int) -> bool:
        """Whether to go on by graphs. Those that there are serve to the end."""
        self._recorded = self._recorded or self._num_steps - done >= RECORD_FROM
        return self._recorded

    def measure(self, theta: Float[Tensor, " P"], gradient: Float[Tensor, " P"]) -> Row:
        """The loss at θ_step, its whole gradient to `gradient`; waits for the device."""
        while True:
            with current_stream(self._device) as stream:
                self._run.measure(address(theta, self._like), address(gradient, self._like), stream)
            needed = self._look()
            if not needed:
                return self.row(self.step)
            self._make_room(needed)

    def take_measured_step(
        self, theta: Float[Tensor, " P"], gradient: Float[Tensor, " P"], out: Float[Tensor, " P"]
    ) -> None:
        """The step from where has just been measured."""
        vectors = (address(vector, self._like) for vector in (theta, gradient, out))
        with current_stream(self._device) as stream:
            self._run.take_measured_step(*vectors, stream)

    # --- what it wrote down ---

    @property
    def diverged(self) -> bool:
        """Whether `take_all` ended at numbers that are none, which the row of `step` holds."""
        return self._halted != 0

    def _look(self) -> int:
        """Wait, and read everything. Intersections of a step that had no room, 0 if all had; then it may go on."""
        written = self._written.to("cpu", copy=True)
        self._halted, self.step, needed, _ = written[:2].view(torch.int32).tolist()
        self.rows = written[2:].reshape(-1, self._columns).tolist()
        if self._halted != self._module.halted_without_room:
            return 0
        self._written[:1].view(torch.int32)[0] = 0
        return needed & 0xFFFFFFFF

    def row(self, step: int) -> Row:
        """Of one step, as of the last look."""
        pixels, ssim, *sums = self.rows[step]
        count = len(self._ranges)
        pairs = zip(sums[:count], sums[count:], strict=True)
        return Row(self._objective.value(pixels, ssim), [RangeStatistics(*pair) for pair in pairs])
