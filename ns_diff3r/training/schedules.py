# SPDX-License-Identifier: Apache-2.0
"""Learning rates as functions of the step: plain Python floats, no state."""

from __future__ import annotations

import math


def warmup_cosine(step: int, num_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Factor on a peak learning rate: a linear rise over the first steps, then half a cosine down.

    Args:
        step: from 0; later steps than `num_steps` count as the last.
        num_steps: length of the schedule.
        warmup_fraction: share of the steps in which the factor rises to 1.
        final_fraction: factor at the end.
    """
    warmup = math.ceil(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))
