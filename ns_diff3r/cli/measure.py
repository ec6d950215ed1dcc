# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a call, and how much of it passes inside the compiled extension."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


def durations(
    calls: Mapping[str, Callable[[], object]], rounds: int = 7, at_least: float = 1.0, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call in each of several rounds.

    A round times every call once, so that what else the machine does falls on all of them alike. There are `rounds`
    rounds, or as many (up to 200) as take `at_least` seconds. With `warm_up` each call is made once untimed just before
    it is timed, so that it finds the caches as its own repetition leaves them and does not pay for its predecessor.
    """
    results: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    done = 0
    while done < rounds or (time.perf_counter() - begin < at_least and done < 200):
        for name, call in calls.items():
            if warm_up:
                call()
            start = time.perf_counter()
            call()
            results[name].append(time.perf_counter() - start)
        done += 1
    return results


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


class NativeClock:
    """Sums the durations of calls into the compiled extension (seconds)."""

    def __init__(self) -> None:
        self.total = 0.0
        self.calls = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its duration added to the clock; stand-ins among its arguments are replaced by what they wrap."""

        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*(_unwrapped(argument) for argument in arguments), **options)
            finally:
                self.total += time.perf_counter() - start
                self.calls += 1

        return call


class _Timed:
    """Stands in for the compiled module, or for an object made by one of its classes."""

    def __init__(self, wrapped: Any, clock: NativeClock) -> None:
        self._wrapped = wrapped
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        if isinstance(attribute, type):
            return lambda *arguments: _Timed(attribute(*arguments), self._clock)
        return self._clock.timed(attribute) if callable(attribute) else attribute


def _unwrapped(value: Any) -> Any:
    return value._wrapped if isinstance(value, _Timed) else value


@contextmanager
def native_clock() -> Iterator[NativeClock]:
    """Within the context, calls into the extension are timed; of objects it made before, nothing is."""
    from .. import extension
    from ..rasterization.native_plans import release_workspaces

    clock = NativeClock()
    release_workspaces()  # plans kept for reuse are not wrapped, and wrapped ones must not stay
    with mock.patch.object(extension, "cpu", return_value=_Timed(extension.cpu(), clock)):
        yield clock
    release_workspaces()


def resident_bytes() -> tuple[int, int]:
    """(now, peak since the last `reset_peak`) resident memory of this process. OSError where /proc does not tell."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    current, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return current, peak


def reset_peak() -> None:
    """Begin a new peak of resident memory at what is resident now (Linux). OSError where that is not possible."""
    Path("/proc/self/clear_refs").write_text("5")


def available_bytes() -> int:
    """Memory that can be taken without swapping (Linux); elsewhere a cautious 4 GiB."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 4 << 30
