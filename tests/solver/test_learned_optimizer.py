# SPDX-License-Identifier: Apache-2.0
"""A learned optimiser fits the contract: a small network per Gaussian, with a latent state of its own."""

import io

import pytest
import torch
from torch import Tensor, nn

from ns_diff3r.solver import DifferentiableTTO
from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.inner import InnerPoint, InnerState, InnerStep, run_trajectory, training_steps
from ns_diff3r.solver.inner.training import detach_state
from ns_diff3r.splats import Gaussians
from tests.solver.dense_problem import DenseRenderer, dense_scene, random_gaussians
from tests.solver.layer_calls import config_of, watched

LATENT = 6


class LearnedRule(nn.Module):
    """Per Gaussian: (normalised gradient, second moment, steps taken, latent) → (change, new latent)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(2 * 14 + 1 + LATENT, 24), nn.Tanh(), nn.Linear(24, 14 + LATENT)).double()

    def init(self, theta: Gaussians) -> InnerState:
        n = theta.num_gaussians
        zeros = {"dtype": theta.dtype, "device": theta.device}
        return {
            "moment": torch.zeros(n, 14, **zeros),
            "steps": torch.zeros(n, dtype=torch.int64),
            "latent": torch.zeros(n, LATENT, **zeros),
        }

    def step(self, state: InnerState, point: InnerPoint, out: Tensor) -> InnerStep:
        gradient, statistics = point.total_gradient()
        rows = per_gaussian(point.template, gradient)
        active = rows.abs().sum(1) > 0
        state["steps"] = state["steps"] + active
        state["moment"] = 0.9 * state["moment"] + 0.1 * rows.square()
        normalised = rows / (state["moment"].sqrt() + 1e-8)
        inputs = torch.cat([normalised, rows, state["steps"][:, None] / 10.0, state["latent"]], dim=1)
        change, latent = self.network(inputs).split([14, LATENT], dim=1)
        state["latent"] = torch.where(active[:, None], latent, state["latent"])
        change = torch.where(active[:, None], 0.02 * change - 0.02 * normalised, 0.0)
        return InnerStep(point.theta + flat(point.template, change), statistics)


def per_gaussian(template: Gaussians, vector: Tensor) -> Tensor:
    return torch.cat([leaf.reshape(template.num_gaussians, -1) for leaf in template.unflatten(vector).leaves()], dim=1)


def flat(template: Gaussians, rows: Tensor) -> Tensor:
    widths = [leaf[:1].numel() for leaf in template.leaves()]
    return torch.cat([part.reshape(-1) for part in rows.split(widths, dim=1)])


def setup():
    start = random_gaussians(5, 0)
    return start, dense_scene(start, DenseRenderer(start, bend=0.1), ImageLoss(ssim_weight=0.0), noise=0.5)


def test_it_is_trained_through_its_own_steps():
    start, problem = setup()
    rule = LearnedRule()
    outer = torch.optim.Adam(rule.parameters(), 3e-3)
    history = []
    for _ in range(25):
        outer.zero_grad()
        losses = []
        for step in training_steps(problem, start, rule, 4):
            assert step.theta.requires_grad
            image = problem.linearize.image(step.theta)  # pyright: ignore[reportAttributeAccessIssue]
            losses.append((image - problem.objective.target).abs().mean())
        loss = torch.stack(losses).mean()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in rule.parameters())
        outer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.95 * history[0]


def test_the_graph_runs_from_step_to_step_through_the_latent_alone():
    start, problem = setup()
    rule = LearnedRule()
    state = rule.init(start)
    state["latent"].requires_grad_()
    first = state["latent"]
    steps = list(training_steps(problem, start, rule, 3, state=state))
    (through,) = torch.autograd.grad(steps[-1].theta.sum(), first)
    assert through.any()
    again = rule.init(start)
    begin = start.flatten().clone().requires_grad_()
    results = list(training_steps(problem, start.unflatten(begin), rule, 2, state=again))
    assert torch.autograd.grad(results[-1].theta.sum(), begin, allow_unused=True) == (None,)


def test_it_is_resumed_from_a_buffer_in_mid_run():
    start, problem = setup()
    rule = LearnedRule(1)
    whole = run_trajectory(problem, start, rule, 9)
    steps = list(training_steps(problem, start, rule, 4))
    buffer = io.BytesIO()
    torch.save(
        {"theta": steps[-1].theta.detach(), "state": detach_state(steps[-1].state), "rule": rule.state_dict()}, buffer
    )
    buffer.seek(0)
    kept = torch.load(buffer, weights_only=True)
    other = LearnedRule(2)
    other.load_state_dict(kept["rule"])
    theta = kept["theta"]
    rest = run_trajectory(problem, start.unflatten(theta), other, 5, state=kept["state"], first_step=4)
    assert torch.equal(rest.theta, whole.theta)
    assert torch.equal(rest.state["steps"], torch.full((5,), 9))
    fresh = run_trajectory(problem, start.unflatten(theta), other, 5, first_step=4)
    assert not torch.equal(fresh.theta, whole.theta)


def test_it_serves_as_the_optimiser_of_a_layer(dense):
    class Rule(LearnedRule):
        def step(self, state, point, out):
            gradient, statistics = point.total_gradient()
            state["steps"] = state["steps"] + 1
            return InnerStep(point.theta - 0.1 * gradient, statistics)

    init, context, _ = dense(num=4)
    rule = Rule()
    layer = DifferentiableTTO(config_of(num_steps=3, backward_mode="first_order"), optimizer=rule).eval()
    assert {name for name, _ in layer.named_parameters()} == {f"optimizer.{n}" for n, _ in rule.named_parameters()}
    theta, solution = layer(watched(init), 0.5, context)
    assert solution.num_steps == 3
    assert solution.loss_curve[-1] < solution.loss_curve[0]
    theta.means.sum().backward()
    for mode in ("adjoint", "truncated"):
        with pytest.raises(ValueError, match="Rule has no adjoint"):
            DifferentiableTTO(config_of(backward_mode=mode), optimizer=rule)
