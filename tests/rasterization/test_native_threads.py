# SPDX-License-Identifier: Apache-2.0
"""Results do not depend on the number of threads, bit for bit, nor on what was computed before or beside."""

import hashlib
import multiprocessing
import threading

import pytest
import torch

from ns_diff3r import Cameras, linearize, render
from ns_diff3r.rasterization.native_plans import release_workspaces
from tests.rasterization.native_cases import BACKGROUNDS, all_products
from tests.scenes import make_scene, random_images

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
THREADS = (1, 2, 3, 5)


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def large_scene(dtype, seed=0):
    """Several work items everywhere: five chunks of Gaussians, twelve tiles a view; some at the caps."""
    gaussians, cameras = make_scene("generic", 1, 4200, 2, (41, 61), torch.float64, seed)
    gaussians.scales[:] -= 1.5
    gaussians.scales[::20] += 1.5
    gaussians.opacities[::20] = 14.0
    return gaussians.to(dtype=dtype), cameras.to(dtype=dtype)


def digest(tensors):
    """Of the bits of named tensors."""
    result = {}
    for name, tensor in tensors.items():
        result[name] = hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
    return result


def everything(dtype, seed=0):
    gaussians, cameras = large_scene(dtype, seed)
    linearization = linearize(gaussians, cameras, "gsplat-1.5.3", BACKGROUNDS, antialiased=True)
    moved = gaussians.map(lambda leaf: leaf + 1e-3)
    results = all_products(linearization) | autograd(gaussians, cameras)
    for freeze in ("order", "pairs"):
        products = all_products(linearization.at(moved, freeze))
        results |= {f"{name} at another point ({freeze})": x for name, x in products.items()}
    return digest(results)


def autograd(gaussians, cameras):
    leaves = gaussians.map(torch.clone).requires_grad_()
    viewmats = cameras.viewmats.clone().requires_grad_()
    rendering = render(leaves, Cameras(viewmats, cameras.Ks, cameras.width, cameras.height), background=BACKGROUNDS)
    u = random_images(cameras, 3, gaussians.dtype)
    cotangents = [u, u[..., :1].clone(), u[..., 1:2].clone()]
    images = [rendering.rgb, rendering.alpha, rendering.depth]
    gradients = torch.autograd.grad(images, (*leaves.leaves(), viewmats), cotangents)
    results = {f"image {i}": image for i, image in enumerate(images)}
    return results | {f"gradient {i}": gradient for i, gradient in enumerate(gradients)}


@DTYPES
def test_number_of_threads(dtype):
    results = {}
    for threads in (*THREADS, 2, 3):  # twice: which thread takes which item differs from run to run
        torch.set_num_threads(threads)
        results.setdefault(threads, []).append(everything(dtype))
    for threads in THREADS:
        for result in results[threads]:
            assert result == results[1][0], f"{threads} threads"


@DTYPES
def test_threads_changed_between_products(dtype):
    """The number counts when a linearisation is made; changing it later changes nothing."""
    gaussians, cameras = large_scene(dtype)
    torch.set_num_threads(3)
    linearization = linearize(gaussians, cameras)
    expected = digest(all_products(linearization))
    torch.set_num_threads(1)
    assert digest(all_products(linearization)) == expected
    assert digest(all_products(linearize(gaussians, cameras))) == expected


@DTYPES
def test_recycled_work_memory(dtype):
    """A linearisation takes over the work memory of a finished one, larger or smaller, with all that lies in it."""
    torch.set_num_threads(2)
    release_workspaces()
    fresh = everything(dtype)
    for kind, size, number in (("opaque", (17, 33), 30), ("huge", (64, 80), 2000), ("transparent", (1, 1), 3)):
        gaussians, cameras = make_scene(kind, 4, number, 3, size, dtype)
        other = linearize(gaussians, cameras, "inria", antialiased=kind == "huge")
        all_products(other.at(gaussians, "pairs"))
        del other
        assert everything(dtype) == fresh, kind


@DTYPES
def test_interleaved_linearizations(dtype):
    """Two alive at once, one of them the origin of others: each keeps its own numbers.

    With straight-through caps, frozen points need their origin's values besides its decisions.
    """
    first = linearize(*large_scene(dtype, 1), "inria")
    expected = digest(all_products(first))
    second = linearize(*large_scene(dtype, 2), "inria")
    expected_second = digest(all_products(second))
    moved = first.gaussians.map(lambda leaf: leaf + 1e-2)
    third = {freeze: first.at(moved, freeze) for freeze in ("order", "pairs")}
    expected_third = {freeze: digest(all_products(x)) for freeze, x in third.items()}
    for _ in range(2):
        assert digest(all_products(first)) == expected
        assert digest(all_products(second)) == expected_second
        for freeze, linearization in third.items():
            assert digest(all_products(linearization)) == expected_third[freeze]
    assert expected_third["order"] != expected_third["pairs"]
    del first  # what its children keep of it must stay alive, and not be recycled into the next one
    linearize(*large_scene(dtype, 3), "inria")
    for freeze, linearization in third.items():
        assert digest(all_products(linearization)) == expected_third[freeze]


def test_renders_before_their_backward_passes():
    """Several forward passes first, then their backward passes in another order."""
    scenes = [large_scene(torch.float32, seed) for seed in range(3)]
    expected = [autograd(*scene) for scene in scenes]
    leaves = [gaussians.map(torch.clone).requires_grad_() for gaussians, _ in scenes]
    images = [render(x, cameras, background=BACKGROUNDS) for x, (_, cameras) in zip(leaves, scenes, strict=True)]
    for i in (1, 2, 0):
        u = random_images(scenes[i][1], 3, torch.float32)
        cotangents = [u, u[..., :1].clone(), u[..., 1:2].clone()]
        drawn = [images[i].rgb, images[i].alpha, images[i].depth]
        gradients = torch.autograd.grad(drawn, leaves[i].leaves(), cotangents)
        for k, gradient in enumerate(gradients):
            assert torch.equal(gradient, expected[i][f"gradient {k}"])


def test_two_python_threads_at_once():
    torch.set_num_threads(2)
    expected = {seed: everything(torch.float32, seed) for seed in range(2)}
    found, errors = {0: [], 1: []}, []

    def work(seed):
        try:
            for _ in range(4):
                found[seed].append(everything(torch.float32, seed))
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for seed in range(2):
        assert found[seed] == [expected[seed]] * 4


def test_one_linearization_in_two_python_threads():
    """Its products share work memory, so they take turns."""
    torch.set_num_threads(1)
    linearization = linearize(*large_scene(torch.float32))
    images = [random_images(linearization.cameras, seed, torch.float32) for seed in range(2)]
    expected = [linearization.vjp(u).flatten() for u in images]
    wrong = [0, 0]

    def work(i):
        for _ in range(50):
            wrong[i] += not torch.equal(linearization.vjp(images[i]).flatten(), expected[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == [0, 0]


def _in_child(connection, gaussians, cameras):
    connection.send(digest(all_products(linearize(gaussians, cameras))))
    connection.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_forked_child_after_use_in_the_parent():
    """Threads do not survive a fork: the child must start its own (data loaders fork)."""
    gaussians, cameras = make_scene("generic", 1, 1500, 2, (41, 61))
    torch.set_num_threads(2)
    expected = digest(all_products(linearize(gaussians, cameras)))
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_in_child, args=(sender, gaussians, cameras))
        child.start()
        arrived = receiver.poll(60)
        result = receiver.recv() if arrived else None
        if not arrived:
            child.kill()
        child.join()
        assert arrived, "the forked child did not finish"
        assert child.exitcode == 0
        assert result == expected
        assert digest(all_products(linearize(gaussians, cameras))) == expected  # and the parent is as it was
