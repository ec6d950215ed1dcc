# SPDX-License-Identifier: Apache-2.0
"""What a caller may hand over: slices, nothing at all, too much; streams and devices that are not the first ones."""

import threading

import pytest
import torch

from ns_diff3r import Gaussians, extension, linearize
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.splats import eigen
from tests.cuda.cuda_cases import PLACES, cuda_linearization, dtypes_at, require
from tests.cuda.pretend_device import PretendTensor, pretended
from tests.rasterization.native_cases import BACKGROUNDS, SIZE, all_products, assert_same_image
from tests.scenes import make_scene, random_images, random_tangent

places = pytest.mark.parametrize("place", PLACES)


@places
def test_slices_of_larger_tensors(place):
    """Rows of one table, channels of larger images, and addresses that no vector load could start from."""
    require(place)
    dtype, _ = dtypes_at(place)
    gaussians, cameras = make_scene("generic", 1, 12, 2, SIZE, dtype)
    gaussians = gaussians.to(device=place)
    table = torch.cat([leaf.flatten(1) if leaf.dim() > 1 else leaf[:, None] for leaf in gaussians.leaves()], dim=1)
    table = torch.cat([torch.full_like(table[:, :1], torch.nan), table], dim=1)
    sliced = Gaussians(table[:, 1:4], table[:, 4:8], table[:, 8:11], table[:, 11], *_colours(table[:, 12:]))
    odd = gaussians.map(lambda leaf: torch.cat([leaf.flatten()[:1], leaf.flatten()])[1:].view(leaf.shape))
    u = random_images(cameras, 1, dtype).to(gaussians.means)
    wide = torch.cat([torch.full_like(u, torch.nan), u], dim=-1)
    expected = cuda_linearization(gaussians, cameras, place)
    v = random_tangent(gaussians, 2).to(dtype=dtype, device=place)
    wanted = (expected.rgb, expected.vjp(u).flatten(), expected.gauss_newton(v, u * u).flatten())
    for form, image in ((sliced, wide[..., 3:]), (odd, u.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3))):
        value = cuda_linearization(form, cameras, place)
        found = (value.rgb, value.vjp(image).flatten(), value.gauss_newton(v, image * image).flatten())
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def _colours(rest):
    return rest[:, :3].unflatten(1, (1, 3)), rest[:, 3:].unflatten(1, (-1, 3))


@places
def test_no_gaussians(place):
    """The background, and products of length 0."""
    require(place)
    dtype, tolerance = dtypes_at(place)
    gaussians, cameras = make_scene("generic", 1, 4, 2, SIZE)
    nothing = gaussians.map(lambda leaf: leaf[:0])
    expected = linearize(nothing, cameras, background=BACKGROUNDS, backend="native")
    value = cuda_linearization(nothing.to(dtype=dtype), cameras, place, background=BACKGROUNDS)
    assert_same_image(value.rgb.cpu(), expected.rgb, tolerance)
    products = all_products(value)
    for name, numbers in all_products(expected).items():
        assert products[name].shape == numbers.shape, name


def test_a_sum_that_runs_over():
    """The total says so, wherever it happens and whatever is left of it."""
    kernels, limit = extension.cuda_host(), 2**32
    for counts in ([limit - 1, 5, 7], [1, limit - 1, 3], [2, 3, limit - 4], [limit // 2] * 4, [limit // 2, limit // 2]):
        sums = [sum(counts[:k]) % limit for k in range(len(counts) + 1)]
        slots = torch.tensor([x - limit if x >= limit // 2 else x for x in sums], dtype=torch.int32)
        kernels.check_total(slots.data_ptr(), len(counts))
        assert slots[-1] == -1, counts
    slots = torch.tensor([0, 7, 7, 2**31 - 1, -2], dtype=torch.int32)
    kernels.check_total(slots.data_ptr(), 4)
    assert slots[-1] == -2


def test_more_intersections_than_can_be_counted(monkeypatch):
    monkeypatch.setattr(extension.cuda_host(), "too_many_intersections", 5)
    gaussians, cameras = make_scene("huge", 1, 6, 2, SIZE)
    with pytest.raises(RuntimeError, match=r"6 Gaussians cover .* tiles or more of 2 views of 21x37 pixels"):
        cuda_linearization(gaussians, cameras)


def test_every_launch_names_its_device():
    gaussians, cameras = make_scene("generic", 1, 4, 1, (9, 9), torch.float32)
    with pretended() as told:
        value = linearize(gaussians.to(device="cuda"), cameras.to(device="cuda"))
        assert isinstance(value, CudaLinearization)
        before = len(told)
        value.vjp(torch.ones_like(value.rgb))
    assert len(told) == before + 1
    assert set(told) == {0}


def test_a_pretended_device_has_its_rules():
    """What would be an error on a device is one."""
    with pretended():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert isinstance(there, PretendTensor)
        assert there.device.type == "cuda"
        for mistake in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: there.numpy(),
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
            lambda: there.normal_(generator=torch.Generator()),
        ):
            with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|numpy"):
                mistake()
        assert torch.equal((there * torch.tensor(2.0) + here.to(there)).cpu(), torch.full((3,), 3.0))
        with pytest.raises(TypeError, match="float32"):
            linearize(*(x.to(device="cuda") for x in make_scene("generic", 1, 4, 1, (9, 9))))


def test_eigenvectors_in_batches_that_cusolver_takes(monkeypatch):
    """In parts on a device, with the result of all at once; numbers are their own."""
    random = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 7, 4, 4, generator=random, dtype=torch.float64)
    matrices = matrices + matrices.transpose(-1, -2)
    expected = torch.linalg.eigh(matrices)
    sizes = []

    def counted(part, eigh=torch.linalg.eigh):
        sizes.append(part.shape[:-2].numel())
        return eigh(part)

    monkeypatch.setattr(eigen, "LARGEST_BATCH", 8)
    monkeypatch.setattr(torch.linalg, "eigh", counted)
    with pretended():
        found = [x.cpu() for x in eigen.symmetric_eigen(matrices.to("cuda"))]
    assert sizes == [8, 8, 5]
    for value, want in zip(found, expected, strict=True):
        assert torch.equal(value, want)
    values, vectors = eigen.symmetric_eigen(matrices[..., :1, :1])
    assert torch.equal(vectors @ values[..., None] @ vectors, matrices[..., :1, :1])


@pytest.mark.cuda
def test_more_small_blocks_than_cusolver_takes_at_once():
    """As many as a network's Gaussians; seen to fail elsewhere beyond 32,000."""
    require("cuda")
    if isinstance(torch.ones(1, device="cuda"), PretendTensor):
        pytest.skip("no cuSOLVER on a pretended device")
    matrices = torch.randn(70_000, 11, 11, generator=torch.Generator().manual_seed(0)).to("cuda")
    matrices = matrices @ matrices.transpose(-1, -2)
    values, vectors = eigen.symmetric_eigen(matrices)
    again = vectors * values[:, None, :] @ vectors.transpose(-1, -2)
    assert float((again - matrices).norm()) <= 1e-4 * float(matrices.norm())


def _numbers(device):
    gaussians, cameras = make_scene("generic", 1, 30, 2, SIZE, torch.float32)
    return {k: v.cpu() for k, v in all_products(cuda_linearization(gaussians, cameras, device)).items()}


@pytest.mark.cuda
def test_other_streams_threads_and_devices():
    """The same bits wherever it is launched from."""
    require("cuda")
    expected = _numbers("cuda")
    results = []
    if isinstance(torch.ones(1, device="cuda"), PretendTensor):
        pytest.skip("a pretended device has no streams")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results.append(_numbers("cuda"))
    thread = threading.Thread(target=lambda: results.append(_numbers("cuda")))
    thread.start()
    thread.join()
    for device in range(1, torch.cuda.device_count()):
        results.append(_numbers(f"cuda:{device}"))
    assert len(results) >= 2
    for result in results:
        for name, value in expected.items():
            assert torch.equal(result[name], value), name
