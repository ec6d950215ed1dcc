# SPDX-License-Identifier: Apache-2.0
"""The threads of a block, and the blocks, in any order: the same bits. And proof that a missing barrier would show."""

import faulthandler
import os

import pytest
import torch

from ns_diff3r import extension
from ns_diff3r.solver import cuda_ops
from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.pcg import PCGConfig, pcg
from tests.cuda.cuda_cases import cuda_linearization
from tests.rasterization.native_cases import all_products
from tests.scenes import make_scene, random_images

ORDERS = [("reverse", 1), ("forward", 1), ("shuffled", 1), ("shuffled", 2)]


@pytest.fixture
def kernels():
    module = extension.cuda_host()
    yield module
    module.set_thread_order("forward")
    module.skip_barrier(-1)


def everything() -> dict[str, torch.Tensor]:
    """Every kernel there is, on a scene whose lists take several batches and whose cells see different Gaussians."""
    gaussians, cameras = make_scene("generic", 1, 210, 1, (13, 17), torch.float32)
    gaussians.scales[:] -= 0.7
    gaussians.opacities[:] -= 2.0
    linearization = cuda_linearization(gaussians, cameras)
    out = {**all_products(linearization), **all_products(linearization.at(gaussians, "pairs"))}
    depth = random_images(cameras, 5, torch.float32)[..., :1].contiguous()
    out["depth vjp"] = linearization.rendering_vjp(None, None, depth, cameras=True)[0].flatten()

    images = random_images(cameras, 1, torch.float32).abs().clamp_max(1.0)
    target = (images, *cuda_ops.ssim_target(images))
    values, total, partials = cuda_ops.ssim_value(linearization.rgb, target)
    out |= {"ssim": values, "ssim sum": torch.tensor(total)}
    out["ssim vjp"] = cuda_ops.ssim_vjp(linearization.rgb, images, partials, values, 0.5, None)
    total, out["pixel gradient"] = cuda_ops.pixel_loss(0, linearization.rgb, images, 0.1, 1.0, None)
    out["pixel sum"] = torch.tensor(total)
    theta = gaussians.flatten()
    ranges = [(s.start, s.stop, 0.1, False) for s in gaussians.group_slices().values()]
    vectors = [theta, theta + 1, torch.ones_like(theta), theta.clone(), theta * 0, theta * 0, theta.clone()]
    out["statistics"] = cuda_ops.inner_step("adam", ranges, vectors, (0.9, 0.99, 1e-8, 1))
    out["adam"] = vectors[-1]
    curvature = ImageLoss(ssim_weight=0.0).linearize(linearization.rgb, images).curvature
    operator = NormalOperator(linearization, curvature, images.numel(), torch.full_like(theta, 1e-2))
    result = pcg(operator, linearization.vjp(images).flatten(), PCGConfig(max_iterations=2, refresh_every=2))
    out |= {"solution": result.solution, "residuals": torch.tensor(result.residual_history)}
    return out


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(x.nan_to_num(7e7), b[name].nan_to_num(7e7)) for name, x in a.items())


def test_the_order_of_threads_does_not_matter(kernels):
    expected = everything()
    for order, seed in ORDERS:
        kernels.set_thread_order(order, seed)
        found = everything()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (order, name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes are looked at in forked processes")
def test_every_barrier_is_needed_and_missed(kernels):
    """Each barrier of the kernels in turn is left out: another result, threads that wait for ever, or a crash."""
    kernels.barrier_sites(clear=True)
    expected = everything()
    sites = kernels.barrier_sites()
    assert len(sites) >= 10
    assert not noticed(kernels, expected, -1)
    missed = [site for index, site in enumerate(sites) if not noticed(kernels, expected, index)]
    assert not missed, f"nobody misses the barriers at {missed}"


def noticed(kernels, expected, index: int) -> bool:
    """Whether leaving out the barrier shows in some order of threads; in processes of their own, since it may crash."""
    for order, seed in ORDERS:
        child = os.fork()
        if child == 0:
            status = 1
            faulthandler.disable()
            try:
                torch.set_num_threads(1)
                kernels.set_thread_order(order, seed)
                kernels.skip_barrier(index)
                status = 0 if same(expected, everything()) else 1
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1] != 0:
            return True
    return False
