# SPDX-License-Identifier: Apache-2.0
import mmap
import sys
import time

import numpy as np
import pytest

from ns_diff3r.cli.measure import available_bytes, durations, native_clock, ratio, reset_peak, resident_bytes


def test_rounds_time_every_call():
    times = durations({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.004)}, rounds=5, at_least=0.0)
    assert [len(values) for values in times.values()] == [5, 5]
    assert ratio(times["long"], times["short"]) > 1.2


def test_ratio_is_the_median_over_rounds():
    assert ratio([2.0, 2.0, 90.0], [1.0, 2.0, 10.0]) == 2.0


def test_native_clock_counts_calls_into_the_extension():
    from ns_diff3r.data.generated import pixel_aligned_scene
    from ns_diff3r.rasterization import linearize

    gaussians, cameras = pixel_aligned_scene(image_size=32)
    before = linearize(gaussians, cameras)
    begin = time.perf_counter()
    with native_clock() as clock:
        inside = linearize(gaussians, cameras)
        moved = inside.render(gaussians)
    assert clock.calls >= 4  # two plans, each built and rendered
    assert 0.0 < clock.total < time.perf_counter() - begin
    np.testing.assert_array_equal(inside.rgb, before.rgb)
    np.testing.assert_allclose(moved.rgb, before.rgb, atol=1e-5)
    after = clock.calls
    linearize(gaussians, cameras)
    assert clock.calls == after


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_sees_what_was_freed():
    reset_peak()
    before, _ = resident_bytes()
    # Mapped directly: an allocator may serve an array from pages that a long test run left resident.
    with mmap.mmap(-1, 64 << 20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
    after, peak = resident_bytes()
    assert peak - before > 60 << 20
    assert after - before < 30 << 20
    reset_peak()
    assert resident_bytes()[1] < peak
    assert available_bytes() > 0
