# SPDX-License-Identifier: Apache-2.0
"""The photometric terms of the outer loss."""

import math

import pytest
import torch

from ns_diff3r.training.config import LossConfig
from ns_diff3r.training.losses import LOG_MSE_FLOOR, LOG_MSE_SCALE, OuterLoss, log_mse


def images_with_errors(*errors: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One view for each error: constant differences of that size from the truth."""
    truth = torch.rand(len(errors), 6, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return truth + torch.tensor(errors, dtype=torch.float64)[:, None, None, None], truth


def test_log_mse_is_the_mean_of_each_views_logarithm():
    images, truth = images_with_errors(0.1, 0.02)
    expected = LOG_MSE_SCALE * sum(math.log1p(e**2 / LOG_MSE_FLOOR) for e in (0.1, 0.02)) / 2
    assert float(log_mse(images, truth)) == pytest.approx(expected, rel=1e-12)
    assert float(log_mse(truth, truth)) == 0.0


def test_log_mse_pulls_on_every_view_alike():
    """A step along the gradient changes the PSNR of a good and of a bad view by as much."""
    images, truth = images_with_errors(0.3, 0.1)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(log_mse(images, truth), images)
    relative = (gradient * (images - truth)).detach().sum((1, 2, 3))  # d loss / d ln(error)
    assert float(relative[0] / relative[1]) == pytest.approx(1.0, abs=0.02)
    mse = torch.autograd.grad(((images - truth) ** 2).mean(), images)[0]
    relative = (mse * (images - truth)).detach().sum((1, 2, 3))
    assert float(relative[0] / relative[1]) == pytest.approx(9.0)


def test_log_mse_weighs_as_mse_does_at_twenty_decibels():
    images, truth = images_with_errors(0.1)
    images.requires_grad_()
    (logarithmic,) = torch.autograd.grad(log_mse(images, truth), images)
    (plain,) = torch.autograd.grad(((images - truth) ** 2).mean(), images)
    assert float(logarithmic.norm() / plain.norm()) == pytest.approx(1.0, abs=0.02)


def test_the_term_and_the_description_say_which_it_is():
    images, truth = images_with_errors(0.1)
    for kind, name in (("mse", "MSE"), ("log_mse", "logarithm of MSE")):
        loss = OuterLoss(LossConfig(photometric=kind, lpips="off"))  # pyright: ignore[reportArgumentType]
        assert list(loss(images, truth)) == [kind]
        assert loss.description == f"outer loss: {name}, LPIPS switched off"
    with pytest.raises(ValueError, match=r"LossConfig\.photometric"):
        LossConfig(photometric="psnr")  # pyright: ignore[reportArgumentType]
