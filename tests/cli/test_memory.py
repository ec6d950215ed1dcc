# SPDX-License-Identifier: Apache-2.0
import sys

import pytest

from ns_diff3r.cli.benchmark_memory import memory_in_subprocess

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_backward_needs_the_same_memory_for_any_number_of_steps():
    few, many = (memory_in_subprocess("implicit", steps, 128, 32768)["backward"] for steps in (10, 200))
    assert few > 10 << 20  # large enough for its noise to be small
    assert many == pytest.approx(few, rel=0.02)


def test_unrolling_needs_more_with_every_step():
    few, more = (memory_in_subprocess("unroll", steps, 16, 100)["backward"] for steps in (5, 15))
    layer = memory_in_subprocess("implicit", 15, 16, 100)["backward"]
    assert more > 2 * few
    assert more > 5 * layer


def test_a_failed_measurement_says_why():
    with pytest.raises(RuntimeError, match="num_steps must not be negative"):
        memory_in_subprocess("implicit", -1, 16, 100)
