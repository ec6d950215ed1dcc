# SPDX-License-Identifier: Apache-2.0
"""One training step: what it minimises, what it trains, what it reports."""

import copy
import gc
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ns_diff3r import DifferentiableTTO, render
from ns_diff3r.solver import TTOConfig
from ns_diff3r.training.config import LossConfig, TrainingConfig
from ns_diff3r.training.stages import Stage
from ns_diff3r.training.step import TrainingModule
from tests.training.doubles import batches, gradients, make_batch, make_config, make_network


def module_of(config: TrainingConfig) -> TrainingModule:
    return TrainingModule(make_network(), config).train()


def step_gradients(module: TrainingModule, seeds: list[int], step: int = 0) -> dict[str, Tensor | None]:
    module.zero_grad(set_to_none=True)
    module(batches(seeds), step).loss.backward()
    return gradients(module.network)


def assert_close(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], rtol: float = 1e-5) -> None:
    assert {n for n, g in found.items() if g is None} == {n for n, g in expected.items() if g is None}
    for name, gradient in expected.items():
        if gradient is not None:
            error = (found[name] - gradient).norm()  # pyright: ignore[reportOptionalOperand]
            assert error <= rtol * gradient.norm(), name
            assert gradient.norm() > 0, name


def test_the_first_stage_is_the_loss_of_the_prediction():
    module = module_of(make_config(pretrain_steps=5))
    batch = make_batch(0)
    output = module([batch], 0)
    assert output.stage is Stage.PRETRAIN
    images = render(module.network(batch.context).gaussians, batch.targets.cameras).rgb
    expected = mse_loss(images, batch.targets.images)
    assert list(output.losses) == ["outer_mse"]
    torch.testing.assert_close(output.loss, expected)

    output.loss.backward()
    found = gradients(module.network)
    module.zero_grad(set_to_none=True)
    expected.backward()
    assert_close(found, gradients(module.network))
    assert all(gradient is None for name, gradient in found.items() if name.startswith("uncertainty"))


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_second_stage_is_the_loss_after_optimisation_and_a_share_of_the_loss_before(weight):
    config = make_config(freeze_backbone=False, losses=LossConfig(lpips="off", auxiliary_weight=weight))
    module = module_of(config)
    scenes = batches([0, 1])
    output = module(scenes, 3)
    assert output.stage is Stage.BILEVEL
    assert list(output.losses) == (["outer_mse", "auxiliary_mse"] if weight else ["outer_mse"])

    network = copy.deepcopy(module.network)
    network.zero_grad(set_to_none=True)
    predictions = [network(batch.context) for batch in scenes]
    results, _ = DifferentiableTTO(config.layer_config()).train()(
        [p.gaussians for p in predictions], [p.prior for p in predictions], [batch.context for batch in scenes]
    )
    expected = torch.zeros(())
    for batch, prediction, result in zip(scenes, predictions, results, strict=True):
        for gaussians, share in ((result, 1.0), (prediction.gaussians, weight)):
            images = render(gaussians, batch.targets.cameras).rgb
            expected = expected + 0.5 * share * mse_loss(images, batch.targets.images)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    expected.backward()
    assert_close(gradients(module.network), gradients(network))


def test_a_frozen_backbone_gets_no_gradient_and_trains_again_when_it_may():
    module = module_of(make_config(pretrain_steps=1, freeze_backbone=True))
    second = step_gradients(module, [0], step=1)
    assert all((gradient is None) == name.startswith("backbone.trunk") for name, gradient in second.items())
    first = step_gradients(module, [0], step=0)
    assert all((gradient is None) == name.startswith("uncertainty") for name, gradient in first.items())


def test_losses_are_divided_by_the_number_of_accumulated_steps():
    once = module_of(make_config(pretrain_steps=5))
    thrice = module_of(make_config(pretrain_steps=5, gradient_accumulation=3))
    torch.testing.assert_close(thrice(batches([0]), 0).loss * 3, once(batches([0]), 0).loss)


def test_a_step_of_several_scenes_is_the_mean_of_its_scenes():
    module = module_of(make_config(pretrain_steps=5))
    parts = [step_gradients(module, [seed]) for seed in (0, 1)]
    mean = {name: None if g is None else 0.5 * (g + parts[1][name]) for name, g in parts[0].items()}  # pyright: ignore
    assert_close(step_gradients(module, [0, 1]), mean)


def test_what_a_step_reports():
    module = module_of(make_config(pretrain_steps=1, inner_steps=4))
    first = module(batches([0, 1]), 0)
    assert {"psnr_before", "outer_before", "num_gaussians", "seconds_predict", "seconds_render"} <= set(first.scalars)
    assert not any("after" in name or "lambda" in name or "tto" in name for name in first.scalars)
    first.loss.backward()
    assert first.backward_scalars() == {"skipped_scenes": 0.0}

    output = module(batches([0, 1]), 1)
    scalars = output.scalars
    assert scalars["psnr_gain"] == pytest.approx(scalars["psnr_after"] - scalars["psnr_before"])
    assert scalars["psnr_after"] > scalars["psnr_before"]
    assert scalars["outer_after"] == pytest.approx(float(output.losses["outer_mse"].detach()))
    assert 10 ** (-0.1 * scalars["psnr_before"]) == pytest.approx(scalars["outer_before"], rel=0.2)
    assert scalars["num_gaussians"] == 288
    assert scalars["inner_steps"] == 4
    assert 0 < scalars["stationarity"] < 10
    assert all(scalars[f"curvature_scale_{group}"] > 0 for group in ("means", "quats", "scales", "opacities", "sh0"))
    solutions = [scene.solution for scene in output.scenes]
    assert all(solution is not None and solution.backward is None for solution in solutions)
    assert output.backward_scalars() == {"skipped_scenes": 0.0}
    output.loss.backward()
    after = output.backward_scalars()
    reports = [solution.backward for solution in solutions]  # pyright: ignore[reportOptionalMemberAccess]
    assert after["pcg_iterations"] == max(report.iterations for report in reports)
    assert after["pcg_residual"] == max(report.residual for report in reports)
    assert after["pcg_converged"] == 0.0  # 30 iterations are too few here
    assert 0 < after["seconds_solve"] < 60
    assert all(isinstance(value, float) and math.isfinite(value) for value in {**scalars, **after}.values())
    assert any(text.startswith("generated-1: the implicit solve stopped") for text in output.warnings)


def test_of_several_solves_the_worst_is_reported():
    module = module_of(make_config())
    output = module(batches([0, 1]), 0)
    output.loss.backward()
    first, second = (scene.solution.backward for scene in output.scenes)  # pyright: ignore[reportOptionalMemberAccess]
    first.iterations, first.residual, first.status = 7, 0.5, "converged"
    second.iterations, second.residual, second.status = 3, 0.9, "max_iterations"
    found = output.backward_scalars()
    assert (found["pcg_iterations"], found["pcg_residual"], found["pcg_converged"]) == (7.0, 0.9, 0.5)
    first.residual = math.nan
    assert math.isnan(output.backward_scalars()["pcg_residual"])


def test_statistics_of_the_prior():
    module = module_of(make_config())
    output = module(batches([0, 1]), 0)
    priors = [module.network(batch.context).prior for batch in batches([0, 1])]
    for group in ("means", "opacities", "shN"):
        values = torch.cat([prior[group] for prior in priors]).detach().log10().flatten()
        median = output.scalars[f"log10_lambda_{group}_q50"]
        assert median == pytest.approx(float(values.median()), abs=1e-3)
        assert output.scalars[f"log10_lambda_{group}_q10"] <= median <= output.scalars[f"log10_lambda_{group}_q90"]
        histogram = output.prior_histogram(bins=4, low=-2.0, high=2.0)[group]
        assert histogram.sum() == len(values)
        assert histogram[1] + histogram[2] == len(values)
    assert histogram.shape == (4,)


def test_the_curvature_scale_is_learned_in_training_alone():
    module = module_of(make_config())
    module(batches([0]), 0)
    assert int(module.tto.curvature_scale.num_updates) == 1
    module.eval()
    with torch.no_grad():
        output = module(batches([0]), 0)
    assert int(module.tto.curvature_scale.num_updates) == 1
    assert not output.loss.requires_grad
    assert "psnr_after" in output.scalars


def test_the_renderer_of_the_layer_draws_the_targets():
    settings = TTOConfig(num_steps=1, background=(1.0, 0.0, 0.0), preset="inria")
    module = module_of(make_config(tto=settings))
    batch = make_batch(0)
    gaussians = module.network(batch.context).gaussians
    red = torch.tensor([1.0, 0.0, 0.0])
    expected = render(gaussians, batch.targets.cameras, preset="inria", background=red).rgb
    assert torch.equal(module.draw(gaussians, batch.targets.cameras), expected)


def test_a_step_without_a_scene_is_refused():
    with pytest.raises(ValueError, match="at least one scene"):
        module_of(make_config())([], 0)


@pytest.mark.parametrize("step", [0, 1])
def test_steps_leave_no_tensors_behind(step):
    """The graph of a step dies with its output, without a cycle that only the collector (or nothing) would free."""
    module = module_of(make_config(pretrain_steps=1))

    def tensors_after_a_step() -> int:
        step_gradients(module, [0], step)
        return sum(isinstance(thing, Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        counts = [tensors_after_a_step() for _ in range(4)]
    finally:
        gc.enable()
    assert counts[1] == counts[2] == counts[3]
