# SPDX-License-Identifier: Apache-2.0
"""Differences of a killed `gradcheck` are used by the next run of the same command."""

import json

import pytest

from ns_diff3r.cli.frozen_tto import FrozenTTO
from ns_diff3r.cli.kept_values import KeptValues
from ns_diff3r.cli.main import main

from .test_modes import RUN, SMALL


class Killed(BaseException):
    """Nothing catches it."""


def squares(calls):
    def square(x):
        calls.append(x)
        return float(x) ** 2 / 3.0

    return square


def values(path, numbers, command=("a",), function=None, key="k"):
    """(values, arguments of the calls that were made) of a run over `numbers`."""
    calls = []
    kept = KeptValues(path, {"command": list(command)})
    evaluate = kept.of(key, function or squares(calls))
    return [evaluate(x) for x in numbers], calls


def test_a_killed_run_goes_on(tmp_path):
    path = tmp_path / "kept"
    values(path, [1, 2, 3])
    with path.open("a") as stream:
        stream.write('["k", 5.33')  # killed while it wrote
    found, calls = values(path, [1, 2, 3, 4, 5])
    assert found == [x**2 / 3.0 for x in (1, 2, 3, 4, 5)]
    assert calls == [1, 4, 5]  # the first value is always computed
    assert values(path, [1, 2, 3, 4, 5])[1] == [1]


def test_another_command_or_function_takes_nothing(tmp_path):
    path = tmp_path / "kept"
    values(path, [1, 2])
    assert values(path, [1, 2], command=("b",))[1] == [1, 2]
    assert values(path, [1, 2], command=("a",))[1] == [1, 2]
    assert values(path, [1, 2], key="other")[1] == [1, 2]
    assert values(path, [1, 2], function=lambda x: x + 0.5)[0] == [1.5, 2.5]
    assert values(path, [1, 2])[0] == [1 / 3.0, 4 / 3.0]  # after the other function's values had taken their place
    assert values(path, [1, 2])[1] == [1]


def test_nothing_is_kept_without_a_file():
    assert values(None, [1, 2])[1] == [1, 2]


@pytest.mark.parametrize("modes", [("--modes", "adjoint"), ()])
def test_gradcheck_goes_on_where_it_was_killed(modes, tmp_path, monkeypatch):
    file, evaluations, limit = tmp_path / "check.json", [0], [5]
    evaluate = FrozenTTO.__call__

    def counted(self, start, multiplier):
        if evaluations[0] == limit[0]:
            raise Killed
        evaluations[0] += 1
        return evaluate(self, start, multiplier)

    monkeypatch.setattr(FrozenTTO, "__call__", counted)
    command = ["gradcheck", *SMALL, *RUN, *modes, "--few-directions", "--json", str(file)]
    with pytest.raises(Killed):
        main(command)
    assert not file.exists()
    limit[0], evaluations[0] = -1, 0
    main(command)
    resumed, resumed_evaluations = json.loads(file.read_text()), evaluations[0]
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]
    evaluations[0] = 0
    main(command)
    whole = json.loads(file.read_text())
    assert evaluations[0] - resumed_evaluations == 4
    key = "groups" if modes else "rows"
    assert resumed[key] == whole[key]
