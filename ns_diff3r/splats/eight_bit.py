# SPDX-License-Identifier: Apache-2.0
"""Opacities that a file stores in eight bits."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

HALF_STEP = 0.5 / 255
LOGIT_LIMIT = math.log((1 - HALF_STEP) / HALF_STEP)


def logits_of_bytes(opacities: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Logits of opacities k / 255.

    0 and 255 stand for anything within half a step of 0 and 1, so they become half a step (logit ±6.2): invisible and
    opaque as before, but with a logit that optimisation can still move.
    """
    return opacities.clamp(HALF_STEP, 1 - HALF_STEP).logit()


def limit_logits(logits: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The same for logits that a library has already computed from bytes."""
    return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
