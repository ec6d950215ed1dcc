# SPDX-License-Identifier: Apache-2.0
"""A plan whose lists are made again and again, without waiting to learn how long they are."""

from __future__ import annotations

from torch import Tensor

from ..cuda_launch import current_stream
from .cuda import CudaPlan


class ReservedPlan(CudaPlan):
    """Memory to linearise the views of another plan at any parameters, with room for a given number of intersections.

    The device knows the true number. Where it is greater than the room, csrc/cuda/inner_run.h says so, and nothing that
    came of it may be used.
    """

    def __init__(self, origin: CudaPlan, room: int) -> None:
        """`room`: intersections of tiles and records, at least 1."""
        super().__init__(origin.dtype, origin.device)
        self._begin(origin.settings, origin.config)
        self._keep(cameras=origin.memory["cameras"], background=origin.memory["background"])
        self._keep_records()
        self.plan.room = room
        self._keep_lists()
        self._keep_pixels()
        with current_stream(self.device):  # what cub asks for depends on the device
            self.scan_work: Tensor = self._scan_work()
            self.list_work: list[Tensor] = self._list_work()
        self.slots: Tensor = self._empty((room, self.module.vjp_slot))
