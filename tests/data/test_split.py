# SPDX-License-Identifier: Apache-2.0
import pytest

from ns_diff3r.data import SceneError, SplitConfig, split_indices


@pytest.mark.parametrize(
    ("count", "evaluation"),
    [(2, ()), (3, (1,)), (4, (1,)), (5, (1,)), (8, (1,)), (9, (1,)), (10, (1, 9)), (100, tuple(range(1, 100, 8)))],
)
def test_every_eighth_image_is_held_out(count, evaluation):
    training, held_out = split_indices(count)
    assert held_out == evaluation
    assert sorted((*training, *held_out)) == list(range(count))
    assert list(training) == sorted(training)


@pytest.mark.parametrize("every", [2, 3, 8, 50])
@pytest.mark.parametrize("first", [0, 1, 4, 70])
def test_at_least_one_is_held_out_and_two_are_not(every, first):
    for count in range(3, 30):
        training, held_out = split_indices(count, SplitConfig(every=every, first=first))
        assert len(held_out) >= 1
        assert len(training) >= 2
        assert not set(training) & set(held_out)


@pytest.mark.parametrize("count", [2, 3, 100])
def test_all_images_on_request(count):
    assert split_indices(count, SplitConfig(all=True)) == (tuple(range(count)), ())


@pytest.mark.parametrize(("count", "config"), [(1, {}), (0, {}), (9, {"every": 1}), (9, {"first": -1})])
def test_what_cannot_be_split(count, config):
    with pytest.raises(SceneError, match="split: "):
        split_indices(count, SplitConfig(**config))
