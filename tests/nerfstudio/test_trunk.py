# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of ns-train from before the trunk was a parameter group of its own."""

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from ns_diff3r.training.checkpoint import load_checkpoint  # noqa: E402
from ns_diff3r.training.config import GroupOptimizer  # noqa: E402
from ns_diff3r.training.optimizers import learning_rate  # noqa: E402
from ns_diff3r.training.stages import StageConfig  # noqa: E402
from tests.nerfstudio.conftest import ROOM, small_config  # noqa: E402
from tests.nerfstudio.in_process import train  # noqa: E402


def test_a_run_from_before_continues_with_the_trunks_own_rates(tmp_path):
    """Where the backbone is frozen nothing has trained it; the schedule of the trunk keeps pace with the backbone's."""
    rates = GroupOptimizer(pretrain_rate=1e-4, bilevel_rate=1e-5)
    training = {"stages": StageConfig(pretrain_steps=0), "backbone": rates, "trunk": rates}

    def config_of(name):
        config = small_config(ROOM, tmp_path / name, "diff3r-da3", **training)
        config.pipeline.model.backbone.checkpoint, config.pipeline.model.backbone.size = None, "small"
        config.pipeline.datamanager.sampler.num_context = 2
        config.max_num_iterations = 2
        return config

    _, folder = train(config_of("before"))
    (path,) = folder.iterdir()
    state = load_checkpoint(path)
    for part in ("optimizers", "schedulers"):
        assert {"backbone", "trunk", "gaussian_head", "uncertainty_head"} == set(state[part])
        del state[part]["trunk"]
    state["optimizers"]["backbone"]["param_groups"][0]["params"] = list(range(400))  # of both
    torch.save(state, path)

    config = config_of("after")
    config.load_dir = folder
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    schedulers = trainer.optimizers.schedulers
    assert schedulers["trunk"].last_epoch == schedulers["backbone"].last_epoch == 2
    assert schedulers["trunk"].base_lrs == [rates.base_rate]
    assert set(trainer.optimizers.optimizers) == {"backbone", "trunk", "gaussian_head", "uncertainty_head"}
    assert trainer.optimizers.optimizers["trunk"].state_dict()["state"] == {}
    settings = trainer.config.pipeline.model.training
    assert learning_rate("trunk", 2, settings) == 0.0  # frozen, as the rest of the backbone
