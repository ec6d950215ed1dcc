# SPDX-License-Identifier: Apache-2.0
"""What λ learned, on cases in which that is known."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from ns_diff3r.backbones import UncertaintyHeadConfig
from ns_diff3r.evaluation.paired import PairedDifference
from ns_diff3r.evaluation.prior_analysis import (
    MEASURES,
    ItemAnalysis,
    Thresholds,
    analyse_item,
    displacement,
    log_strength_of,
)
from ns_diff3r.evaluation.prior_chance import RandomStrengths, chance_interval, random_strengths
from ns_diff3r.evaluation.prior_findings import Finding, findings, strength_by_views, strength_range
from ns_diff3r.evaluation.rank_correlation import Correlation
from ns_diff3r.evaluation.visibility import ContextVisibility
from ns_diff3r.solver import LearningRates
from ns_diff3r.splats import GROUPS, SparsePoints
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.training.inference import evaluation_layer, reconstruct
from ns_diff3r.training.step import TrainingModule
from tests.training.doubles import FEATURES, make_batch, make_config, make_network

VIEWS, EFFECTIVE = MEASURES[0].key, MEASURES[1].key


def make_module(**changes: object) -> TrainingModule:
    return TrainingModule(make_network(), make_config(inner_steps=3, **changes)).eval()


class KnownHead(nn.Module):
    """λ that is given."""

    def __init__(self, strengths: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.strengths = strengths

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        assert len(features) == len(self.strengths["means"])
        return self.strengths


@pytest.fixture(scope="module")
def batch():
    return make_batch(0)


@pytest.fixture(scope="module")
def by_views(batch) -> ItemAnalysis:
    """λ = 10 where one view sees a Gaussian and 1 where two do; "scales" the other way round; "sh0" says nothing."""
    module = make_module()
    start = reconstruct(module, batch.context, 0).before
    views = ContextVisibility.of(start, batch.context.cameras, module.config.tto).views()[:, None].float()
    assert set(views.unique().tolist()) >= {1.0, 2.0}
    strengths = dict.fromkeys(GROUPS, 10.0 ** (2 - views))
    strengths["scales"] = 10.0 ** (views - 2)
    strengths["sh0"] = torch.ones_like(views)
    module.network.uncertainty_head = KnownHead(strengths)
    return analyse_item(module, batch)


def test_a_strength_that_is_a_function_of_the_views_is_found(by_views):
    found = by_views.correlations
    assert found["means", VIEWS].value == pytest.approx(-1.0)
    assert found["scales", VIEWS].value == pytest.approx(1.0)
    assert found["means", EFFECTIVE].value < -0.1
    assert found["scales", EFFECTIVE].value == pytest.approx(-found["means", EFFECTIVE].value)
    assert found["sh0", VIEWS] == Correlation(None, by_views.num_compared, "λ is the same everywhere")
    assert found["shN", VIEWS].reason == "this network has none of these parameters"  # harmonics of degree 0
    assert 0 < by_views.num_compared <= by_views.num_gaussians == 2 * 12 * 12


def test_strength_by_the_number_of_views(by_views):
    table = strength_by_views([by_views, by_views])
    assert {count: round(mean, 4) for count, (_, mean) in table["means"].items() if count} == {1: 10.0, 2: 1.0}
    assert sum(share for share, _ in table["means"].values()) == pytest.approx(1.0)
    assert table["shN"] == {}
    assert strength_range([by_views], "means") == pytest.approx((1.0, 10.0))
    assert strength_range([by_views], "shN") is None


def test_a_strong_prior_is_what_moves_less(batch):
    module = make_module()
    count = reconstruct(module, batch.context, 0).before.num_gaussians
    free, held = 1e-6, 1e9
    strength = torch.where(torch.rand(count, 1, generator=torch.Generator().manual_seed(0)) < 0.5, free, held)
    module.network.uncertainty_head = KnownHead(dict.fromkeys(GROUPS, strength))
    found = analyse_item(module, batch, num_steps=5).correlations
    assert found["means", "moved"].value < -0.5
    assert abs(found["means", "moved_freely"].value) < 0.2  # nothing holds it: λ, drawn at random, is not related


@pytest.mark.parametrize("world", [1.0, 25.0])
def test_displacement_is_in_learning_rates_of_the_normalised_frame(batch, world):
    """The first step of Adam moves everything that has a gradient by one learning rate, in any units of the world."""
    module = make_module()
    scaling = Similarity(torch.tensor(world), torch.eye(3), torch.zeros(3))
    start = scaling.apply_gaussians(reconstruct(module, batch.context, 0).before)
    context = replace(batch.context, cameras=scaling.apply_cameras(batch.context.cameras))
    layer = evaluation_layer(module, 1)
    with torch.no_grad():
        result, solution = layer(start, None, context)
    moved = displacement(start, result, solution, layer.config)
    seen = ContextVisibility.of(start, context.cameras, layer.config).weights.amax(0) > 0.5
    assert int(seen.sum()) > 50
    for group in ("means", "opacities", "sh0"):
        torch.testing.assert_close(moved[group][seen], torch.ones_like(moved[group][seen]), rtol=1e-3, atol=1e-3)


def test_groups_that_stay_have_no_displacement(batch):
    module = make_module()
    config = module.config
    still = replace(config.tto, frozen_groups=("quats",), learning_rates=replace(LearningRates(), scales=0.0))
    module.config = replace(config, tto=still)
    found = analyse_item(module, batch).correlations
    assert found["quats", "moved"].reason == found["scales", "moved_freely"].reason == "only 0 Gaussians"
    assert found["means", "moved"].value is not None


def test_without_steps_there_is_nothing_to_compare(batch):
    with pytest.raises(ValueError, match="takes no step"):
        analyse_item(make_module(), batch, num_steps=0)


def test_gaussians_of_sparse_points_are_not_compared(batch):
    """Their λ is a mean of the others', and no random head has one for them."""
    cameras = batch.context.cameras
    ray = torch.tensor([50.0 * cameras.width, 0.0, 1.0]) @ torch.linalg.inv(cameras.Ks[0]).T
    aside = (3.0 * ray - cameras.viewmats[0, :3, 3]) @ cameras.viewmats[0, :3, :3]
    positions = aside + 0.1 * torch.eye(3)
    points = SparsePoints(positions, torch.full_like(positions, 0.5))
    plain = analyse_item(make_module(), batch)
    found = analyse_item(make_module(), replace(batch, context=replace(batch.context, points=points)))
    assert found.num_gaussians == plain.num_gaussians + 3
    assert found.num_compared <= plain.num_gaussians


def test_the_module_is_left_as_it_was(batch):
    module = make_module().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    analyse_item(module, batch)
    assert torch.equal(state, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_several_parameters_count_by_their_geometric_mean():
    strength = torch.tensor([[[1.0, 100.0]], [[4.0, 4.0]]])
    logs = log_strength_of(strength)
    assert logs is not None
    assert logs.exp().tolist() == pytest.approx([10.0, 4.0])
    assert log_strength_of(torch.ones(3, 0, 3)) is None


# --- chance ---


def test_random_heads_are_the_same_in_every_call_and_differ_among_themselves():
    head = UncertaintyHeadConfig().setup(FEATURES, 0)
    features = torch.randn(40, FEATURES, generator=torch.Generator().manual_seed(1))
    first, second = random_strengths(head, features, 2), random_strengths(head, features, 2)
    assert len(first) == 2 * len(GROUPS)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(float(draw.std()) > 1e-4 for draw in first)  # of the head itself, whose last layer is 0, it would be 0
    assert len({tuple(draw.tolist()) for draw in first}) == len(first)


def test_correlations_of_draws():
    values = torch.arange(20.0)
    random = RandomStrengths([values, -values, torch.ones(20)])
    assert random.correlations(values) == pytest.approx([1.0, -1.0, None])
    gap = values.clone()
    gap[3] = torch.nan
    assert random.correlations(gap) == pytest.approx([1.0, -1.0, None])


def test_chance_is_a_range_of_means_over_scenes():
    draws = [0.01 * (i - 50) for i in range(101)]
    low, high = chance_interval([("a", draws), ("b", draws)])
    assert (low, high) == pytest.approx((-0.475, 0.475))
    assert chance_interval([("a", draws), ("b", [-x for x in draws])]) == pytest.approx((0.0, 0.0))
    several = chance_interval([("a", draws)], num_seeds=4)
    assert high / 2.2 < several[1] < high / 1.5  # a mean of four spreads half as much
    assert chance_interval([("a", [None, None])]) is None
    assert chance_interval([]) is None


# --- findings ---


def item(scene: str, value: float | None, chance: float = 0.0, spread: float = 1.0) -> ItemAnalysis:
    keys = [(group, measure.key) for group in GROUPS for measure in MEASURES]
    correlations = {
        key: Correlation(value, 100, "" if value is not None else "λ is the same everywhere") for key in keys
    }
    ranges = dict.fromkeys(GROUPS, (0.0, spread))
    return ItemAnalysis(scene, (1,), 100, 100, correlations, {}, ranges, {key: [chance, -chance] for key in keys})


def one(found: list[Finding], group: str, key: str) -> Finding:
    return next(finding for finding in found if finding.group == group and finding.measure.key == key)


def test_scenes_weigh_alike_and_intervals_are_over_scenes():
    items = [(0, item("a", -0.8)), (0, item("a", -0.6)), (0, item("a", -0.4)), (0, item("b", -0.2))]
    found = one(findings(items), "means", VIEWS)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(-0.4)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.6, -0.2))
    assert found.difference.num_scenes == 2
    assert found.verdict == "as claimed"


def test_undefined_images_are_left_out_and_undefined_everywhere_is_said():
    items = [(0, item("a", -0.8)), (0, item("a", None)), (0, item("b", None))]
    found = one(findings(items), "means", VIEWS)
    assert found.difference is not None
    assert (found.difference.mean, found.difference.num_scenes) == (-0.8, 1)
    nothing = one(findings([(0, item("a", None))]), "means", VIEWS)
    assert nothing.difference is None
    assert nothing.reason == "λ is the same everywhere"


def test_scenes_that_lack_a_seed_are_left_out():
    items = [(0, item("a", -0.8)), (1, item("a", -0.4)), (0, item("b", 0.9)), (1, item("b", None))]
    found = one(findings(items), "means", VIEWS)
    assert found.difference is not None
    assert (found.difference.mean, found.difference.num_scenes, found.difference.num_seeds) == (
        -0.6000000000000001,
        1,
        2,
    )


@pytest.mark.parametrize(
    ("key", "low", "high", "chance", "verdict"),
    [
        (VIEWS, -0.5, -0.1, None, "as claimed"),
        (VIEWS, -0.5, -0.1, (-0.2, 0.2), "as claimed"),
        (VIEWS, -0.5, -0.1, (-0.4, 0.4), "no more than chance"),
        (VIEWS, -0.5, 0.1, None, "undecided"),
        (VIEWS, 0.1, 0.5, (-0.2, 0.2), "against the claim"),
        ("moved_freely", 0.1, 0.5, None, "no sign claimed"),
    ],
)
def test_verdicts(key, low, high, chance, verdict):
    measure = next(measure for measure in MEASURES if measure.key == key)
    assert (
        Finding("means", measure, PairedDifference((low + high) / 2, low, high, 9, 1, 1.0), chance).verdict == verdict
    )


def test_ranks_of_a_strength_that_hardly_varies_decide_nothing():
    """Quantiles of λ that differ by a factor of e^0.05: it is a constant for the optimisation."""
    items = [(0, item(scene, -0.8, spread=0.05)) for scene in ("a", "b")]
    found = one(findings(items), "means", VIEWS)
    assert found.spread == pytest.approx(1.0513, abs=1e-4)
    assert found.verdict == "λ hardly varies"
    assert one(findings([(0, item(scene, -0.8)) for scene in ("a", "b")]), "means", VIEWS).verdict == "as claimed"


def test_one_scene_decides_nothing():
    assert one(findings([(0, item("a", -0.8))]), "means", VIEWS).verdict == "undecided"


def test_thresholds_are_checked():
    with pytest.raises(ValueError, match="min_weight must be positive"):
        Thresholds(min_weight=0.0)
    with pytest.raises(ValueError, match=r"min_share lie in \[0, 1\]"):
        Thresholds(min_share=2.0)
    assert asdict(Thresholds()) == {"min_weight": 0.05, "min_share": 0.1}
