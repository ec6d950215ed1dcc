# SPDX-License-Identifier: Apache-2.0
"""Runs of inner steps on the device: to the bit what the loop takes step by step, however often the host looks."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ns_diff3r import extension, linearize
from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.inner import SGD, Adam, RateSchedule, TTOStatus, device_run, rerun_steps, run_trajectory
from ns_diff3r.solver.inner.device_run import DeviceRun
from ns_diff3r.solver.prior import Prior
from ns_diff3r.solver.problem import SceneProblem
from ns_diff3r.splats import GROUPS
from tests.cuda.cuda_cases import PLACES, require
from tests.scenes import make_scene

places = pytest.mark.parametrize("place", PLACES)
RATES: dict[str, float] = dict(zip(GROUPS, (0.02, 0.03, 0.04, 0.1, 0.05, 0.01), strict=True))
L1 = ImageLoss()
ADAM, STEEP = Adam(RATES), Adam({**RATES, "scales": 0.15})
FALLING = Adam(RATES, schedule=RateSchedule("exponential", 0.1, ("means",)), horizon=8)


class Scene:
    """A start, its photographs, and a prior; and runs from there step by step and on the device."""

    def __init__(self, place, monkeypatch):
        gaussians, self.cameras = make_scene("generic", 1, 12, 2, (14, 17), torch.float32)
        gaussians.scales[:] -= 1.0
        self.gaussians, self.cameras = gaussians.to(device=place), self.cameras.to(device=place)
        random = torch.Generator().manual_seed(0)
        self.images = torch.rand(2, 14, 17, 3, generator=random).to(place)
        strength = (0.1 + torch.rand(gaussians.num_parameters, generator=random)).to(place)
        anchor = self.gaussians.flatten() + 0.1
        anchor[gaussians.group_slices()["scales"]] += 2.0  # they grow, into further tiles
        self.prior = Prior(anchor, strength, [1.0] * 6, gaussians.group_slices())
        self.monkeypatch = monkeypatch

    def problem(self, loss=L1):
        return SceneProblem(loss.against(self.images), lambda point: linearize(point, self.cameras, check_finite=False))

    def on_device(self, usable):
        self.monkeypatch.setattr(device_run, "usable", lambda tensor: usable)

    def both(self, optimizer, steps, loss=L1, **more):
        """The two runs; watchers, given as types, are made for each."""
        runs = []
        for usable in (False, True):
            self.on_device(usable)
            own = {name: value() if isinstance(value, type) else value for name, value in more.items()}
            runs.append(run_trajectory(self.problem(loss), self.gaussians, optimizer, steps, **own))
            self.watchers = [*self.watchers[-1:], own] if len(runs) == 2 else [own]
        return runs


@pytest.fixture
def scene(request, monkeypatch):
    place = request.getfixturevalue("place") if "place" in request.fixturenames else "cpu"
    require(place)
    if place == "cpu":
        request.getfixturevalue("everything_by_cuda_kernels")
    return Scene(place, monkeypatch)


def assert_same(expected, found):
    for name in ("status", "loss_curve", "image_loss_curve", "first_gradient", "last_gradient"):
        assert repr(getattr(found, name)) == repr(getattr(expected, name)), name  # to the bit, NaN too
    for name, value in {**expected.state, "theta": expected.theta}.items():
        other = found.theta if name == "theta" else found.state[name]
        assert torch.equal(torch.as_tensor(other).nan_to_num(7e7), torch.as_tensor(value).nan_to_num(7e7)), name


@pytest.fixture
def counted(monkeypatch):
    """How often a run looked, and made room."""
    counts = {"_look": 0, "_make_room": 0}
    for name in counts:
        original = getattr(DeviceRun, name)

        def count(self, *arguments, name=name, original=original):
            counts[name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(DeviceRun, name, count)
    return counts


@places
@pytest.mark.parametrize("loss", [L1, ImageLoss("mse", 0.0), ImageLoss("huber", 1.0)], ids=lambda x: x.kind)
@pytest.mark.parametrize("optimizer", [FALLING, SGD(RATES)], ids=["adam", "sgd"])
def test_to_the_bit(optimizer, loss, place, scene, counted, monkeypatch):
    """More steps than places of θ and than a look sees; with a prior and a frozen group, and without."""
    monkeypatch.setattr(device_run, "LOOK_EVERY", 3)
    for more in ({}, {"prior": scene.prior, "frozen": frozenset({"quats"})}):
        expected, found = scene.both(optimizer, 8, loss, **more)
        assert_same(expected, found)
        assert found.status is TTOStatus.COMPLETED
    assert counted == {"_look": 6, "_make_room": 2}


@places
@pytest.mark.parametrize("record_from", [0, math.inf])
def test_steps_that_find_no_room(record_from, place, scene, counted, monkeypatch):
    """In the first step, in later ones, and in the measure at the end: what they left behind is not used."""
    monkeypatch.setattr(device_run, "RECORD_FROM", record_from)
    monkeypatch.setattr(device_run, "SPARE", 0)
    original = DeviceRun._make_room

    def too_little_at_first(self, intersections):
        device_run.HEADROOM = 0.6 if self._run is None else 1.1
        original(self, intersections)

    with monkeypatch.context() as patch:
        patch.setattr(device_run, "HEADROOM", 1.0)
        patch.setattr(DeviceRun, "_make_room", too_little_at_first)
        assert_same(*scene.both(STEEP, 5, prior=scene.prior))
    monkeypatch.setattr(device_run, "HEADROOM", 1.0)
    rooms = []
    for steps in range(1, 8):
        counted.update(_make_room=0)
        assert_same(*scene.both(STEEP, steps, prior=scene.prior))
        rooms.append(counted["_make_room"])
    # where a run one step shorter needed less, it was the measure at the end that found none
    assert rooms == sorted(rooms)
    assert rooms[-1] >= 3 > rooms[0]


@places
def test_numbers_that_are_none(place, scene):
    """The same iterate is the last, found at the start, on the way, and at the end."""
    steep = SGD(dict.fromkeys(GROUPS, 1e5))
    expected, found = scene.both(steep, 40, prior=scene.prior)
    assert expected.status is TTOStatus.DIVERGED
    assert 1 < expected.num_steps < 39
    assert_same(expected, found)
    for steps in (expected.num_steps, expected.num_steps + 1, expected.num_steps + 2):
        expected, found = scene.both(steep, steps, prior=scene.prior)
        assert_same(expected, found)
    scene.prior.anchor[5] = torch.nan
    for steps in (0, 4):
        expected, found = scene.both(ADAM, steps, prior=scene.prior)
        assert found.status is TTOStatus.DIVERGED
        assert_same(expected, found)


class Watcher:
    """Keeps what it sees as it is given, but what may change."""

    def __init__(self):
        self.seen = []

    def __call__(self, record, next_theta):
        state = {name: torch.as_tensor(value).clone() for name, value in record.state.items()}
        self.seen.append((torch.tensor(record.step), record.theta, record.gradient, next_theta, *state.values()))


class Progress(list):
    def __call__(self, step, loss):
        self.append((step, loss))


@places
@pytest.mark.parametrize("room", [1.25, 1.0])
def test_watched_runs(room, place, scene, counted, monkeypatch):
    """Observers see every step once, also where room has to be made; early ends are found at the same step."""
    monkeypatch.setattr(device_run, "HEADROOM", room)
    monkeypatch.setattr(device_run, "SPARE", 0)
    expected, found = scene.both(STEEP, 6, prior=scene.prior, observer=Watcher, progress=Progress)
    assert_same(expected, found)
    own, other = scene.watchers
    assert other["progress"] == own["progress"]
    assert len(own["observer"].seen) == len(other["observer"].seen) == 6
    for left, right in zip(own["observer"].seen, other["observer"].seen, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))
    assert counted["_look"] == 6 + counted["_make_room"]
    half = (found.stationarity + 1) / 2
    expected, found = scene.both(STEEP, 6, prior=scene.prior, stationarity_tolerance=half)
    assert_same(expected, found)
    assert found.status is TTOStatus.STATIONARY or found.num_steps == 6
    expected, found = scene.both(STEEP, 6, prior=scene.prior, time_budget=0.0)
    assert found.status is TTOStatus.TIME_BUDGET
    assert_same(expected, found)
    expected, found = scene.both(SGD(dict.fromkeys(GROUPS, 1e5)), 40, prior=scene.prior, progress=Progress)
    assert found.status is TTOStatus.DIVERGED
    assert_same(expected, found)


@places
def test_a_run_that_goes_on(place, scene):
    """The optimiser's state and the number of the first step are those of the earlier run."""
    whole, _ = scene.both(FALLING, 7, prior=scene.prior)
    for usable in (False, True):
        scene.on_device(usable)
        head = run_trajectory(scene.problem(), scene.gaussians, FALLING, 3, scene.prior)
        middle = scene.gaussians.unflatten(head.theta)
        rest = run_trajectory(scene.problem(), middle, FALLING, 4, scene.prior, state=head.state, first_step=3)
        assert rest.state is head.state
        assert torch.equal(rest.theta, whole.theta)
        assert rest.loss_curve == whole.loss_curve[3:]


def test_what_is_left_to_the_loop(scene, counted):
    """Penalties without a kernel, learned and second-order rules, recorded runs, renderers that are not ours."""

    class Other(Adam):
        pass

    for optimizer, more in ((Other(RATES), {}), (ADAM, {"record": True}), (ADAM, {"loss": ImageLoss("charbonnier")})):
        expected, found = scene.both(optimizer, 2, **more)
        assert_same(expected, found)
    assert counted["_make_room"] == 0


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@places
def test_nothing_is_done_for_a_single_step(place, scene, counted):
    """Torch operations and waits do not grow with the steps between two looks."""
    scene.on_device(True)
    counts = []
    for steps in (2, 2, 16):  # the first one uploads cameras
        with Operations() as operations:
            run_trajectory(scene.problem(), scene.gaussians, ADAM, steps, scene.prior)
        counts.append(operations.count)
    assert counts[1] == counts[2]
    assert counted["_look"] == 3


def test_any_order_of_threads(scene, monkeypatch):
    """The same bits."""
    kernels = extension.cuda_host()
    scene.on_device(True)
    monkeypatch.setattr(device_run, "SPARE", 0)
    monkeypatch.setattr(device_run, "HEADROOM", 1.0)
    ends = []
    try:
        for order, seed in (("forward", 1), ("reverse", 1), ("shuffled", 1), ("shuffled", 2)):
            kernels.set_thread_order(order, seed)
            ends.append(run_trajectory(scene.problem(), scene.gaussians, STEEP, 4, scene.prior))
    finally:
        kernels.set_thread_order("forward")
    assert math.isfinite(ends[0].loss_curve[-1])
    for end in ends[1:]:
        assert_same(ends[0], end)


@places
def test_steps_taken_again(place, scene):
    """What an observer sees the second time is what it saw the first time."""
    watchers = []
    for usable in (False, True):
        scene.on_device(usable)
        state, watcher = STEEP.init(scene.gaussians), Watcher()
        template, theta = scene.gaussians, scene.gaussians.flatten()
        rerun_steps(scene.problem(), template, STEEP, scene.prior, frozenset(), theta, state, 2, 3, watcher)
        assert state["step"] == 3
        watchers.append(watcher.seen)
    assert len(watchers[0]) == len(watchers[1]) == 3
    for left, right in zip(*watchers, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))
