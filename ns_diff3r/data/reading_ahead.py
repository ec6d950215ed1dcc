# SPDX-License-Identifier: Apache-2.0
"""Batches of coming training steps, read by threads while the present one is taken."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from .batches import SceneBatch
from .errors import SceneError
from .sampler import BatchSampler


class ReadAhead:
    """The batches of `BatchSampler.batch`, bit for bit; with workers, those of the next steps are begun beforehand.

    Decoding and resampling leave Python's lock, so threads are enough, and they share the image cache. As many steps
    are held as there are workers. An error of a step is raised when that step is asked for, and not at all if it never
    is.

    Args:
        sampler: of the batches.
        workers: threads; 0: a batch is read when it is asked for.
        rank, world_size: of this process.
        num_steps: of the run, beyond which nothing is read; None: unknown.

    Raises:
        SceneError: a negative number of workers.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        num_steps: int | None = None,
    ) -> None:
        if workers < 0:
            raise SceneError(f"workers must not be negative, got {workers}")
        self._sampler, self._workers = sampler, workers
        self._place = (rank, world_size)
        self._num_steps = num_steps
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reading") if workers else None
        self._begun: dict[int, Future[list[SceneBatch]]] = {}

    def batch(self, step: int) -> list[SceneBatch]:
        """The scenes of a step; raises what `BatchSampler.batch` does."""
        if self._pool is None:
            return self._sampler.batch(step, *self._place)
        wanted = range(step, step + self._workers + 1)
        for other in [other for other in self._begun if other not in wanted]:  # steps that are passed over
            self._begun.pop(other).cancel()
        for coming in wanted:
            if coming not in self._begun and (coming == step or self._num_steps is None or coming < self._num_steps):
                self._begun[coming] = self._pool.submit(self._sampler.batch, coming, *self._place)
        return self._begun.pop(step).result()

    def close(self) -> None:
        """Begin nothing more, and forget what was begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._begun.clear()
