# SPDX-License-Identifier: Apache-2.0
"""The truncated mode: the adjoint of the last N steps (Theseus' backward_num_iterations).

The iterate θ_{K−N+1} is taken as θ⁰ plus a constant, and the optimiser's state there as a constant. N = 0 is the
first-order mode, N ≥ K the adjoint.
"""

from __future__ import annotations

from .adjoint import Adjoint
from .protocol import BackwardMode


class Truncated(Adjoint):
    """Back through the last `BackwardConfig.num_iterations` steps."""

    mode = BackwardMode.TRUNCATED

    @property
    def num_sweeps(self) -> int | None:
        """N."""
        return self.config.num_iterations
