# SPDX-License-Identifier: Apache-2.0
"""Batches that threads read beforehand: the same ones, few at a time, errors where they belong."""

import json
import threading

import pytest
import torch

from ns_diff3r.data import BatchSampler, CollectionConfig, ReadAhead, SamplerConfig, SceneError, open_collection
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from tests.data.scene_files import write_scene


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    base = tmp_path_factory.mktemp("reading")
    for index in range(4):
        write_scene(base / "scenes" / f"scene{index}", num_frames=7)
    scenes_to_chunks(open_collection(base / "scenes"), base / "chunks")
    return base / "chunks"


def sampler_of(path, **config):
    settings = {"num_context": 2, "num_targets": 2, "scenes_per_step": 2, "flip_probability": 0.5, **config}
    return BatchSampler(SamplerConfig(**settings), open_collection(path, CollectionConfig(cache_megabytes=0)))


def equal(first, second):
    assert [batch.name for batch in first] == [batch.name for batch in second]
    for a, b in zip(first, second, strict=True):
        assert (a.context_indices, a.target_indices) == (b.context_indices, b.target_indices)
        for x, y in ((a.context, b.context), (a.targets, b.targets)):
            assert torch.equal(x.images, y.images)
            assert torch.equal(x.cameras.viewmats, y.cameras.viewmats)
            assert torch.equal(x.cameras.Ks, y.cameras.Ks)
    return True


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_batches_are_those_of_the_sampler(chunks, workers):
    plain = sampler_of(chunks)
    for rank in range(2):
        reading = ReadAhead(sampler_of(chunks), workers, rank, 2)
        for step in (*range(8), 3, 4, 100, 101):  # on, back, and far ahead, as a run that is continued
            assert equal(reading.batch(step), plain.batch(step, rank, 2))
        reading.close()


class Counting:
    """A sampler that says which steps were begun, and waits where it is told to."""

    def __init__(self):
        self.begun, self.gate = [], threading.Event()
        self.gate.set()

    def batch(self, step, rank, world_size):
        self.begun.append(step)
        self.gate.wait(10)
        if step == 3:
            raise SceneError("step 3 cannot be read")
        return [step]


def test_few_steps_are_held_and_none_beyond_the_end():
    counting = Counting()
    reading = ReadAhead(counting, 2, num_steps=6)  # pyright: ignore[reportArgumentType]
    assert reading.batch(0) == [0]
    reading.close()
    assert set(counting.begun) <= {0, 1, 2}
    counting = Counting()
    reading = ReadAhead(counting, 2, num_steps=6)  # pyright: ignore[reportArgumentType]
    assert reading.batch(4) == [4]
    assert reading.batch(5) == [5]
    assert len(reading._begun) == 0
    assert sorted(counting.begun) == [4, 5]  # each once


def test_an_error_is_that_of_its_own_step():
    reading = ReadAhead(Counting(), 2)  # pyright: ignore[reportArgumentType]
    assert [reading.batch(step) for step in range(3)] == [[0], [1], [2]]
    with pytest.raises(SceneError, match="step 3 cannot be read"):
        reading.batch(3)
    assert reading.batch(4) == [4]
    with pytest.raises(SceneError, match="workers must not be negative"):
        ReadAhead(Counting(), -1)  # pyright: ignore[reportArgumentType]


def test_the_next_step_is_read_while_this_one_is_taken():
    counting = Counting()
    next_begun = threading.Event()
    original = counting.batch
    counting.batch = lambda step, *place: (next_begun.set() if step == 1 else None, original(step, *place))[1]
    reading = ReadAhead(counting, 1)  # pyright: ignore[reportArgumentType]
    assert reading.batch(0) == [0]
    assert next_begun.wait(10)  # nobody has asked for it
    reading.close()


def test_generated_scenes_and_mixtures_are_read_by_several_threads(chunks, tmp_path):
    generated = {"num_scenes": 50, "num_evaluation_scenes": 0, "num_views": 5, "num_textures": 24}
    sources = [{"path": str(chunks)}, {"path": "generated", "generated": generated}]
    (tmp_path / "mixture.json").write_text(json.dumps({"sources": sources}))

    def sampler():
        config = CollectionConfig(image_size=(8, 12))
        return BatchSampler(SamplerConfig(num_targets=1), open_collection(tmp_path / "mixture.json", config))

    plain, reading = sampler(), ReadAhead(sampler(), 4)
    assert all(equal(reading.batch(step), plain.batch(step)) for step in range(12))
    reading.close()
