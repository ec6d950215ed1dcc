# SPDX-License-Identifier: Apache-2.0
"""What nerfstudio finds, what importing it costs, and that old runs load."""

import contextlib
import io
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from ns_diff3r.dataclass_state import DefaultsForMissingFields
from tests.nerfstudio.conftest import small_environment

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

import yaml  # noqa: E402

METHODS = (
    *("diff3r", "diff3r-adjoint", "diff3r-metagrad", "diff3r-pretrain", "diff3r-tiny"),
    *("diff3r-depthsplat", "diff3r-da3"),
)
FIXTURES = Path(__file__).parent / "runs"
"""config.yml of every release, as its ns-train wrote it (paths shortened)."""

BLOCKED = """
import gc, socket, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"lpips", "open3d"} or name in {"ns_diff3r._cpu", "gsplat.csrc"}:
            raise AssertionError(f"{name} is imported")

def refuse(*args, **kwargs):
    raise AssertionError("the network is used")

sys.meta_path.insert(0, Blocker())
import torch
torch.hub.load_state_dict_from_url = torch.load = socket.socket.connect = refuse
from ns_diff3r.configs.dataparsers import diff3r_data
from ns_diff3r.configs.methods import (
    diff3r, diff3r_adjoint, diff3r_da3, diff3r_depthsplat, diff3r_metagrad, diff3r_pretrain, diff3r_tiny
)
built = [o for o in gc.get_objects() if isinstance(o, torch.nn.Module) and type(o).__module__.startswith("ns_diff3r")]
assert not built, built
from ns_diff3r import extension
assert extension.cpu.cache_info().currsize == 0, "the extension is loaded"
methods = (
    diff3r, diff3r_adjoint, diff3r_metagrad, diff3r_pretrain, diff3r_tiny, diff3r_depthsplat, diff3r_da3
)
print("ok", *(m.config.method_name for m in methods))
"""


def test_importing_the_entry_points_loads_no_extension_no_network_and_no_weights():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        capture_output=True,
        text=True,
        env=small_environment(),
        timeout=200,
        check=False,
    )
    assert done.stdout.split() == ["ok", *METHODS], done.stderr


def test_nerfstudio_finds_methods_under_their_names_and_the_dataparser():
    from nerfstudio.configs.dataparser_configs import all_dataparsers
    from nerfstudio.configs.method_configs import all_descriptions, all_methods
    from nerfstudio.plugins.registry import discover_methods

    discovered, _ = discover_methods()
    for name in METHODS:
        assert discovered[name].method_name == name == all_methods[name].method_name
        assert len(all_descriptions[name]) > 20
    assert "diff3r-data" in all_dataparsers


def help_of(*arguments: str) -> str:
    """What `ns-train … -h` prints, in one column of boxes."""
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit) as ended:
        tyro.cli(AnnotatedBaseConfigUnion, prog="ns-train", args=[*arguments, "-h"])
    assert ended.value.code == 0
    return re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", shown.getvalue())


@pytest.mark.parametrize("arguments", [("diff3r",), ("diff3r", "diff3r-data")], ids=["method", "dataparser"])
def test_help_explains_every_field(arguments):
    options = re.split(r"\n\s{1,3}(?=--[a-z])", help_of(*arguments))[1:]
    assert len(options) > (100 if len(arguments) == 1 else 3)
    for option in options:
        name, _, explanation = option.partition("\n")
        words = re.sub(r"\(default:.*", "", explanation, flags=re.S).split()
        assert len(words) >= 2, f"{name.strip()} is not explained"


def test_ns_train_lists_the_methods():
    shown = help_of()
    for name in METHODS:
        assert re.search(rf"^.*\b{name}\b\s", shown, re.M), f"{name} is not listed"


def configs_of_ours(config: Any) -> list[Any]:
    """Every dataclass of this package in a tree of settings."""
    if not is_dataclass(config) or isinstance(config, type):
        return []
    ours = [config] if type(config).__module__.startswith("ns_diff3r") else []
    return ours + [inner for field in fields(config) for inner in configs_of_ours(getattr(config, field.name, None))]


@pytest.mark.parametrize("name", METHODS)
def test_settings_survive_fields_that_are_added_later(name):
    from nerfstudio.configs.method_configs import all_methods

    found = configs_of_ours(all_methods[name])
    assert len({type(config) for config in found}) > 12
    for config in found:
        assert isinstance(config, DefaultsForMissingFields), f"{type(config).__name__} lacks the mixin"


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.yml")), ids=lambda path: path.stem)
def test_config_of_every_release_loads(path):
    """As nerfstudio reads it: every class where it was, no constructor called, fields added since with defaults."""
    config = yaml.load(path.read_text(), Loader=yaml.Loader)
    for part in configs_of_ours(config):
        for field in fields(part):
            assert hasattr(part, field.name), f"{type(part).__name__}.{field.name} is missing"
    assert config.pipeline.model.training.num_steps == config.max_num_iterations
    assert str(config.pipeline.datamanager.data)


def test_there_is_a_config_of_the_first_release():
    assert FIXTURES / "0.1.0.yml" in FIXTURES.glob("*.yml")


def test_a_config_without_a_later_field_gets_its_default():
    """The loading that the fixtures rely on, with a field that the first release has."""
    text = (FIXTURES / "0.1.0.yml").read_text()
    shorter = re.sub(r"\n +learning_rates: !!python/object:\S+LearningRates\n(?: {8,}\S+: \S+\n)+", "\n", text)
    assert shorter != text
    config = yaml.load(shorter, Loader=yaml.Loader)
    assert config.pipeline.model.training.tto.learning_rates.means == 1.6e-4


def test_methods_that_are_compared_differ_in_the_backward_mode_alone():
    from dataclasses import replace

    from ns_diff3r.configs import methods

    plain = methods.diff3r.config
    for method, mode in ((methods.diff3r_adjoint, "adjoint"), (methods.diff3r_metagrad, "metagrad")):
        other = method.config
        training = other.pipeline.model.training
        assert training.tto.backward_mode.value == mode
        same = replace(
            training, tto=replace(training.tto, backward_mode=plain.pipeline.model.training.tto.backward_mode)
        )
        assert same == plain.pipeline.model.training
        assert replace(other.pipeline.model, training=same) == plain.pipeline.model
        assert other.pipeline.datamanager == plain.pipeline.datamanager
        assert (other.max_num_iterations, other.method_name) == (plain.max_num_iterations, f"diff3r-{mode}")
