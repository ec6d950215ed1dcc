# SPDX-License-Identifier: Apache-2.0
"""Bad input to `render`, `linearize` and the products: one clear error each, naming what is wrong."""

import functools

import pytest
import torch

from ns_diff3r import Cameras, linearize, render
from ns_diff3r.rasterization import PRESETS, RasterizationConfig
from ns_diff3r.splats import GROUPS
from tests.scenes import make_scene, random_images

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
DRAWING = pytest.mark.parametrize("function", [render, linearize])


@functools.cache
def scene():
    return make_scene("generic", 1, 8, 2, (19, 27))


def clone():
    return scene()[0].map(torch.clone)


@BACKENDS
@DRAWING
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_parameters(function, backend, name, value):
    gaussians = clone()
    getattr(gaussians, name).view(-1)[3] = value
    with pytest.raises(ValueError, match=rf"{name} has 1 non-finite"):
        function(gaussians, scene()[1], backend=backend)


def test_finiteness_need_not_be_checked():
    """An inner loop that watches its loss can do without; a NaN is culled or drawn, never a crash."""
    gaussians, cameras = clone(), scene()[1]
    for leaf in gaussians.leaves():
        leaf.view(-1)[0] = float("nan")
    linearization = linearize(gaussians, cameras, check_finite=False)
    linearization.vjp(torch.ones_like(linearization.rgb))


@DRAWING
def test_unknown_preset(function):
    with pytest.raises(ValueError, match="unknown preset 'gsplat'") as raised:
        function(*scene(), preset="gsplat")
    assert all(name in str(raised.value) for name in PRESETS)


@DRAWING
def test_unknown_backend(function):
    with pytest.raises(ValueError, match=r"unknown backend 'opengl'.*'native'.*'reference'"):
        function(*scene(), backend="opengl")


@BACKENDS
def test_unknown_freeze(backend):
    with pytest.raises(ValueError, match=r"freeze.*'everything'"):
        linearize(*scene(), backend=backend, freeze="everything")
    with pytest.raises(ValueError, match=r"freeze.*'everything'"):
        linearize(*scene(), backend=backend).at(scene()[0], "everything")


@DRAWING
def test_other_tile_sizes_are_the_references_alone(function):
    config = RasterizationConfig(tile_size=8)
    with pytest.raises(ValueError, match="tiles of 16 pixels"):
        function(*scene(), preset=config)
    function(*scene(), preset=config, backend="reference")


@BACKENDS
@DRAWING
@pytest.mark.parametrize("shape", [(4,), (1,), (3, 3), (3, 2), (1, 2, 3), ()])
def test_background_shape(function, backend, shape):
    with pytest.raises(ValueError, match=r"background must be \[3\] or \[2, 3\]"):
        function(*scene(), background=torch.zeros(shape, dtype=torch.float64), backend=backend)


@DRAWING
def test_non_finite_background(function):
    with pytest.raises(ValueError, match="background must be finite"):
        function(*scene(), background=torch.tensor([0.0, float("nan"), 0.0]))


@BACKENDS
@DRAWING
def test_mixed_devices(function, backend):
    gaussians, cameras = scene()
    with pytest.raises(ValueError, match=r"Gaussians are on meta, cameras on cpu"):
        function(gaussians.to(device="meta"), cameras, backend=backend)


@DRAWING
def test_background_on_another_device(function):
    with pytest.raises(ValueError, match="background is on meta"):
        function(*scene(), background=torch.zeros(3, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes(dtype):
    with pytest.raises(TypeError, match=r"float32 or float64"):
        clone().map(lambda leaf: leaf.to(dtype))


def test_sizes_that_are_no_images():
    cameras = scene()[1]
    for size in ((0, 19), (27, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            Cameras(cameras.viewmats, cameras.Ks, *size)


@functools.cache
def linearization():
    return linearize(*scene())


def products():
    """Name and call of every product with one image input."""
    v = scene()[0]
    good = random_images(scene()[1])
    return {
        "vjp": linearization().vjp,
        "vjp_cameras": linearization().vjp_cameras,
        "gauss_newton": lambda x: linearization().gauss_newton(v, x),
        "diagonal": linearization().diagonal,
        "blocks": linearization().blocks,
        "vjp_tangent u": lambda x: linearization().vjp_tangent(v, x, good),
        "vjp_tangent du": lambda x: linearization().vjp_tangent(v, good, x),
    }


PRODUCTS = ("vjp", "vjp_cameras", "gauss_newton", "diagonal", "blocks", "vjp_tangent u", "vjp_tangent du")


@pytest.mark.parametrize("name", PRODUCTS)
def test_images_of_products(name):
    image = random_images(scene()[1])
    product = products()[name]
    product(image)
    for wrong in (image[:1], image[:, :18], image[:, :, 1:], image[..., :1], image[0], image.permute(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"must be \[2, 19, 27, 3\], got"):
            product(wrong)
    with pytest.raises(TypeError, match=r"must be torch.float64 on the CPU, got torch.float32"):
        product(image.float())
    with pytest.raises(TypeError, match=r"on the CPU, got torch.float64 on meta"):
        product(image.to("meta"))


class CroppingOperator:
    def __call__(self, images):
        return images[:, :, 1:]

    def diagonal(self):
        return torch.ones(2, 19, 26, 3, dtype=torch.float64)


def test_operators_that_change_the_shape():
    v = scene()[0]
    for product in (lambda W: linearization().gauss_newton(v, W), linearization().diagonal, linearization().blocks):
        with pytest.raises(ValueError, match=r"must be \[2, 19, 27, 3\], got \[2, 19, 26, 3\]"):
            product(CroppingOperator())


def test_vectors_of_products():
    gaussians, _ = scene()
    image = random_images(scene()[1])
    calls = (
        linearization().jvp,
        lambda v: linearization().gauss_newton(v, image),
        lambda v: linearization().vjp_tangent(v, image, image),
        linearization().at,
        linearization().render,
    )
    other_degree = make_scene("generic", 2, 8)[0]
    for wrong in (gaussians[:7], other_degree, gaussians.to(dtype=torch.float32)):
        for call in calls:
            with pytest.raises(ValueError, match="must have the shape of Gaussians"):
                call(wrong)


def test_non_finite_tangents_are_no_error():
    """Tangents may be any numbers: what they give is not finite either, and nothing else breaks."""
    tangent = clone()
    tangent.means[:] = float("nan")
    assert linearization().jvp(tangent).isnan().any()
    assert linearization().jvp(clone()).isfinite().all()


EXTREMES = [("opacities", 1e3), ("opacities", -1e3), ("scales", 40.0), ("scales", -40.0), ("scales", 80.0),
            ("means", 1e10), ("quats", 1e10), ("quats", 1e-10), ("sh0", 1e10)]  # fmt: skip


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "value"), EXTREMES)
def test_extreme_parameters_are_finite(name, value, dtype, antialiased):
    """Far beyond what training reaches, values may saturate but neither images nor gradients turn into NaN."""
    gaussians, cameras = (x.to(dtype=dtype) for x in scene())
    extreme = gaussians.map(torch.clone)
    getattr(extreme, name)[2] = value
    point = linearize(extreme, cameras, antialiased=antialiased)
    assert point.rgb.isfinite().all()
    assert point.vjp(torch.ones_like(point.rgb)).flatten().isfinite().all()
